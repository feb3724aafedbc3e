"""A policy that pickle refuses is learned from as in A2C: parametrized modules, locks, open files."""

import threading
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch.nn.utils import parametrizations

from sb3_a3c import A3C
from sb3_a3c.policies.copies import clone_policy


class WithFile(BaseFeaturesExtractor):
    """A features extractor that holds an open file and a lock."""

    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space, features_dim=8)
        self.file = Path(__file__).open()
        self.lock = threading.Lock()
        self.net = th.nn.Sequential(th.nn.Linear(int(np.prod(observation_space.shape or ())), 8), th.nn.BatchNorm1d(8))

    def forward(self, obs: th.Tensor) -> th.Tensor:
        with self.lock:
            return self.net(obs)

    def __del__(self) -> None:
        if "file" in vars(self):
            self.file.close()


class SpectralPolicy(ActorCriticPolicy):
    """Parametrized in its constructor."""

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        super()._build(lr_schedule)
        parametrizations.spectral_norm(self.action_net)


class LockedPolicy(ActorCriticPolicy):
    """Has one argument more than ActorCriticPolicy, and nobody can tell which: it can't be built again."""

    def __init__(self, *args: object, secret: int, **kwargs: object) -> None:
        self.lock = threading.Lock()
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]


def untouched(model: BaseAlgorithm) -> None:
    """The policy's constructor has done it."""


def parametrize_all(model: BaseAlgorithm) -> None:
    """Parametrize modules of a finished policy. Their parameters stay the optimizer's."""
    policy = model.policy
    parametrizations.spectral_norm(policy.mlp_extractor.policy_net[0])
    parametrizations.orthogonal(policy.mlp_extractor.value_net[2])
    parametrizations.weight_norm(policy.value_net)
    policy.optimizer = policy.optimizer_class(policy.parameters(), lr=7e-4, **policy.optimizer_kwargs)


CASES = {
    "parametrized later": ("MlpPolicy", {}, parametrize_all),
    "parametrized by its constructor": (SpectralPolicy, {}, untouched),
    "file and lock": ("MlpPolicy", dict(policy_kwargs=dict(features_extractor_class=WithFile)), untouched),
}


def made(algorithm: type[BaseAlgorithm], case: str, n_envs: int = 2, **kwargs: object) -> BaseAlgorithm:
    policy, arguments, change = CASES[case]
    env = make_vec_env("CartPole-v1", n_envs=n_envs, seed=1)
    model = algorithm(policy, env, seed=1, device="cpu", **arguments, **kwargs)  # type: ignore[arg-type]
    change(model)
    return model


def assert_same_policy(policy: ActorCriticPolicy, expected: ActorCriticPolicy) -> None:
    state, expected_state = policy.state_dict(), expected.state_dict()
    assert list(state) == list(expected_state)
    assert all(th.equal(state[name], expected_state[name]) for name in state)


@pytest.mark.parametrize("case", CASES)
def test_one_worker_is_a2c(case: str) -> None:
    a2c = made(A2C, case).learn(100)
    a3c = made(A3C, case, n_workers=1, engine="torch").learn(100)
    assert_same_policy(a3c.policy, a2c.policy)


@pytest.mark.parametrize("backend", ["serial", "thread", "process"])
@pytest.mark.parametrize("case", CASES)
def test_workers_learn(case: str, backend: str) -> None:
    model = made(A3C, case, backend=backend)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(40)
    after = model.policy.state_dict()
    changed = {name for name in before if not th.equal(before[name], after[name])}
    assert changed >= {name for name, _ in model.policy.named_parameters() if not name.startswith("log_std")}


@pytest.mark.parametrize("case", CASES)
def test_a_clone_equals_the_policy_and_shares_nothing(case: str) -> None:
    model = made(A2C, case, policy_kwargs=dict(share_features_extractor=False)) if "file" not in case else made(A2C, case)
    model.learn(20)  # so that the optimizer has statistics, and the policy tensors of a graph
    next(model.policy.parameters()).requires_grad_(False)
    generators = th.get_rng_state(), np.random.get_state()[1].tolist()
    clone = clone_policy(model.policy)
    assert th.equal(th.get_rng_state(), generators[0]) and np.random.get_state()[1].tolist() == generators[1]
    assert_same_policy(clone, model.policy)
    names = [(name, param.requires_grad) for name, param in clone.named_parameters()]
    assert names == [(name, param.requires_grad) for name, param in model.policy.named_parameters()]
    assert clone.training == model.policy.training
    ours = [tensor.data_ptr() for tensor in clone.state_dict().values()]
    assert not set(ours) & {tensor.data_ptr() for tensor in model.policy.state_dict().values()}
    states = zip(clone.optimizer.state.values(), model.policy.optimizer.state.values(), strict=True)
    for state, expected in states:
        th.testing.assert_close(state, expected, rtol=0, atol=0)
        assert state["square_avg"] is not expected["square_avg"]
    owned = {id(param) for group in clone.optimizer.param_groups for param in group["params"]}
    assert owned <= {id(param) for param in clone.parameters()}
    obs = th.as_tensor(model.env.reset())
    with th.no_grad():
        assert th.equal(clone.predict_values(obs), model.policy.predict_values(obs))


@pytest.mark.parametrize("backend", ["serial", "process"])
def test_an_error_says_that_it_is_the_policy_and_which_part(backend: str) -> None:
    env = make_vec_env("CartPole-v1", n_envs=2)
    model = A3C(LockedPolicy, env, policy_kwargs=dict(secret=1), backend=backend, engine="torch")
    with pytest.raises(
        TypeError, match=r"(?s)The policy, a LockedPolicy, can't be copied.*policy\.lock can't be pickled"
    ) as info:
        model.learn(20)
    assert "missing 1 required keyword-only argument: 'secret'" in str(info.value)
    assert "environment" not in str(info.value)


def test_the_cases_are_what_they_seem() -> None:
    for case in CASES:
        with pytest.raises((RuntimeError, TypeError)):
            cloudpickle.dumps(made(A2C, case).policy)
