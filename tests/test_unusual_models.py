"""One worker on the torch engine is A2C with policies and VecEnvs, too, that keep values in their own ways."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecMonitor, VecNormalize
from test_identity import assert_equal_to_the_bit, learned

from sb3_a3c import A3C

ONE: tuple[tuple[type, dict[str, Any]], ...] = ((A2C, {}), (A3C, dict(n_workers=1, engine="torch")))


class Taps(BaseFeaturesExtractor):
    """It registers a hook that keeps the output of a layer."""

    def __init__(self, space: gym.Space, kind: str) -> None:
        super().__init__(space, 16)
        self.tapped: th.Tensor
        self.net = th.nn.Sequential(th.nn.Linear(3, 16), th.nn.Tanh(), th.nn.Linear(16, 4))
        hooks = {"method": self.tap, "closure": lambda *args: self.tap(*args), "partial": partial(Taps.tap, self)}
        self.net[1].register_forward_hook(hooks[kind])

    def tap(self, module: th.nn.Module, args: Any, output: th.Tensor) -> None:
        self.tapped = output

    def forward(self, obs: th.Tensor) -> th.Tensor:
        self.net(obs)
        return self.tapped


@pytest.mark.parametrize("kind", ["method", "closure", "partial"])
@pytest.mark.parametrize("has_predicted", [False, True])
def test_hooks_that_modules_register_for_themselves(kind: str, has_predicted: bool) -> None:
    kwargs = dict(features_extractor_class=Taps, features_extractor_kwargs=dict(kind=kind))
    runs = []
    for algorithm, own in ONE:
        model = algorithm("MlpPolicy", make_vec_env("Pendulum-v1", 2, seed=3), seed=1, policy_kwargs=kwargs, **own)
        if has_predicted:
            model.predict(np.zeros(3, np.float32))
        runs.append(learned(model.learn(100)))
    assert_equal_to_the_bit(runs[1], runs[0])


@pytest.mark.parametrize("backend", ["serial", "thread", "process"])
def test_hooks_of_modules_with_several_workers(backend: str) -> None:
    """The copies have copies of them: the original's output stays what it was."""
    kwargs = dict(features_extractor_class=Taps, features_extractor_kwargs=dict(kind="method"))
    model = A3C("MlpPolicy", make_vec_env("Pendulum-v1", 2), n_workers=2, backend=backend, policy_kwargs=kwargs)
    model.predict(np.zeros(3, np.float32))
    tapped = model.policy.features_extractor.tapped  # type: ignore[union-attr]
    weight = model.policy.features_extractor.net[0].weight.detach().clone()  # type: ignore[union-attr, index]
    model.learn(100)
    assert model.policy.features_extractor.tapped is tapped  # type: ignore[union-attr]
    assert not th.equal(model.policy.features_extractor.net[0].weight, weight)  # type: ignore[union-attr, index]


class RunningMean(BaseFeaturesExtractor):
    """Counts the mean of observations in a buffer, while it acts."""

    def __init__(self, space: gym.Space) -> None:
        super().__init__(space, 3)
        self.linear = th.nn.Linear(3, 3)
        self.register_buffer("mean", th.zeros(3))
        self.register_buffer("n", th.zeros(()))

    def forward(self, obs: th.Tensor) -> th.Tensor:
        if not self.training:
            with th.no_grad():
                self.n += len(obs)
                self.mean += (obs - self.mean).sum(0) / self.n
        return self.linear(obs - self.mean)


def test_buffers_that_are_written_while_acting() -> None:
    runs, counts = [], []
    for algorithm, own in ONE:
        kwargs = dict(features_extractor_class=RunningMean)
        model = algorithm("MlpPolicy", make_vec_env("Pendulum-v1", 2, seed=3), seed=1, policy_kwargs=kwargs, **own)
        runs.append(learned(model.learn(100)))
        counts.append(model.policy.features_extractor.n.item())
    assert_equal_to_the_bit(runs[1], runs[0])
    assert counts[0] == counts[1] > 100


class SomeParameters(ActorCriticPolicy):
    """Its optimizer has some of its parameters. The gradients of the others add up, and count for the norm."""

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        params = [*self.mlp_extractor.parameters(), *self.action_net.parameters()]
        self.optimizer = self.optimizer_class(params, lr=lr_schedule(1), **self.optimizer_kwargs)


def test_an_optimizer_of_some_parameters() -> None:
    runs = [learned(algorithm(SomeParameters, "Pendulum-v1", seed=1, **own).learn(200)) for algorithm, own in ONE]
    assert_equal_to_the_bit(runs[1], runs[0])


@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_hooks_of_the_optimizer(engine: str) -> None:
    runs, calls = [], []

    def clip(optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        calls.append(optimizer)
        with th.no_grad():
            for param in optimizer.param_groups[0]["params"]:
                param.clamp_(-0.1, 0.1)

    several = (A3C, dict(n_workers=2, engine=engine))
    for algorithm, own in (*ONE, several):
        model = algorithm("MlpPolicy", make_vec_env("Pendulum-v1", 2, seed=3), seed=1, **own)
        model.policy.optimizer.register_step_post_hook(clip)
        runs.append(learned(model.learn(100)))
        assert max(param.abs().max().item() for param in model.policy.parameters()) == np.float32(0.1)
        assert len(calls) == model._n_updates
        calls.clear()
    assert_equal_to_the_bit(runs[1], runs[0])
    model.backend = "process"
    with pytest.raises(ValueError, match="backend must be 'thread' or 'serial' for this optimizer"):
        model.learn(100)


@pytest.mark.parametrize("n_workers", [1, 2])
@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_noise_matrices_are_of_the_policy_that_has_learned(n_workers: int, engine: str) -> None:
    """``predict()`` with gSDE explores as far as the policy's standard deviation says."""
    env = make_vec_env("Pendulum-v1", 2, seed=3)
    model = A3C("MlpPolicy", env, use_sde=True, n_workers=n_workers, engine=engine, seed=1)
    with th.no_grad():
        model.policy.log_std.fill_(-5.0)
    model.learn(100)
    obs = np.ones((2, 3), np.float32)
    noise = model.predict(obs)[0] - model.predict(obs, deterministic=True)[0]
    assert 0 < np.abs(noise).max() < 0.2
    if engine == "torch" and n_workers == 1:
        same = A2C("MlpPolicy", make_vec_env("Pendulum-v1", 2, seed=3), use_sde=True, seed=1)
        with th.no_grad():
            same.policy.log_std.fill_(-5.0)
        np.testing.assert_array_equal(model.predict(obs)[0], same.learn(100).predict(obs)[0])


class Undeclared(VecEnvWrapper):
    """A wrapper that A3C does not know."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        return self.venv.step_wait()


class UsesAgain(Undeclared):
    """It returns the same dicts and the same array at each step."""

    def reset(self) -> Any:
        self.infos: list[dict] = [{} for _ in range(self.num_envs)]
        self.dones = np.zeros(self.num_envs, dtype=bool)
        return super().reset()

    def step_wait(self) -> Any:
        obs, rewards, self.dones[:], infos = self.venv.step_wait()
        for mine, info in zip(self.infos, infos, strict=True):
            mine.clear()
            mine.update(info)
        return obs, rewards, self.dones, self.infos


class Extended(VecNormalize):
    """A subclass may treat environments together, so it is not sliced."""


class Sees(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def _on_step(self) -> bool:
        normalize = self.model.get_vec_normalize_env()
        held: list[Any] = []
        if normalize is not None:
            held = [normalize.obs_rms.count, normalize.get_original_obs().tolist(), normalize.returns.tolist()]  # type: ignore
        self.seen.append((self.locals["dones"].tolist(), [sorted(info) for info in self.locals["infos"]], held))
        return True


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("wrap", [UsesAgain, Extended, lambda venv: VecNormalize(Undeclared(venv))])
def test_what_is_seen_of_vec_envs_that_are_not_sliced(wrap: Any, looks: bool) -> None:
    runs, seen = [], []
    for algorithm, own in ONE:
        callback = Sees()
        model = algorithm("MlpPolicy", wrap(make_vec_env("CartPole-v1", 2, seed=3)), seed=1, **own)
        runs.append(learned(model.learn(300, callback if looks else None)))
        runs[-1]["lengths"] = [episode["l"] for episode in model.ep_info_buffer]
        seen.append(callback.seen)
    assert_equal_to_the_bit(runs[1], runs[0])
    assert seen[0] == seen[1] and len(runs[0]["lengths"]) > 5


class Counts(gym.Wrapper):
    def reset(self, **kwargs: Any) -> Any:
        self.n = 0
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        self.n += 1
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, {**info, "n": self.n}


class Checks(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.n_episodes = 0

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.n_episodes += 1
                assert info["episode"]["l"] == info["n"]
        return True


@pytest.mark.parametrize("stop", [lambda n: n < 7, lambda n: 1 / (7 - n) < 2])
def test_after_a_stop_within_a_rollout_wrappers_are_where_their_environments_are(stop: Any) -> None:
    """A VecEnv that is not sliced shows each step to callbacks. A stop, or an error, leaves it at the last one."""
    venv = Undeclared(VecMonitor(DummyVecEnv([lambda: Counts(gym.make("CartPole-v1"))] * 2)))
    venv.seed(0)
    model, n_calls = A3C("MlpPolicy", venv, n_workers=1, seed=1), iter(range(1, 100))
    try:
        model.learn(100, lambda local_variables, global_variables: stop(next(n_calls)))
    except ZeroDivisionError:
        pass
    checks = Checks()
    model.learn(200, checks, reset_num_timesteps=False)
    assert checks.n_episodes > 2


def test_parameters_stay_in_their_memory() -> None:
    model = A3C("MlpPolicy", "Pendulum-v1", n_workers=1)
    model.policy.share_memory()
    weight = model.policy.action_net.weight
    pointer, before = weight.data_ptr(), weight.detach().clone()
    model.learn(100)
    assert weight.is_shared() and weight.data_ptr() == pointer and not th.equal(weight, before)


class Longer(A3C):
    """It makes more steps than it is asked for."""

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        total_timesteps, callback = super()._setup_learn(*args, **kwargs)
        return total_timesteps + 50, callback


def test_the_steps_that_setup_learn_returns() -> None:
    assert Longer("MlpPolicy", "Pendulum-v1", n_workers=1).learn(100).num_timesteps == 150


class Tenth(RolloutBuffer):
    """A buffer that changes what is added."""

    def add(self, obs: Any, action: Any, reward: Any, *rest: Any) -> None:
        super().add(obs, action, reward * 0.1, *rest)


def test_a_rollout_buffer_with_its_own_add() -> None:
    kwargs = dict(rollout_buffer_class=Tenth, seed=1)
    runs = [learned(algorithm("MlpPolicy", "Pendulum-v1", **kwargs, **own).learn(200, Sees())) for algorithm, own in ONE]
    assert_equal_to_the_bit(runs[1], runs[0])


@pytest.mark.parametrize("n_workers", [1, 2])
@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_tensors_are_not_made_on_torchs_default_device(engine: str, n_workers: int) -> None:
    """With ``torch.set_default_device("cuda")``, a model on the CPU learns the same. "meta" takes the place of a GPU here."""
    runs = []
    for device in (None, "meta"):
        env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=3))
        model = A3C("MlpPolicy", env, seed=1, n_workers=n_workers, backend="serial", engine=engine)
        th.set_default_device(device)
        try:
            runs.append(model.learn(100).policy.state_dict())
        finally:
            th.set_default_device(None)
    assert_equal_to_the_bit(*runs)
