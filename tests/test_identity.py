"""One worker on the torch engine is A2C, to the last bit: what it learns, and all that callbacks see meanwhile."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import (
    FakeImageEnv,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
    SimpleMultiObsEnv,
)
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from sb3_a3c import A3C, BoundedMlpPolicy, register_callback
from sb3_a3c.envs.normalization import running_statistics
from sb3_a3c.worker.worker import Worker


class DropoutBatchNorm(BaseFeaturesExtractor):
    """A features extractor with buffers, and with noise that it draws itself."""

    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space, features_dim=8)
        width = int(np.prod(observation_space.shape or ()))
        self.net = th.nn.Sequential(th.nn.Linear(width, 8), th.nn.BatchNorm1d(8), th.nn.Dropout(0.2))

    def forward(self, obs: th.Tensor) -> th.Tensor:
        return self.net(obs)


class FrozenFeatures(BaseFeaturesExtractor):
    """A features extractor that is not trained."""

    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space, features_dim=8)
        self.net = th.nn.Linear(int(np.prod(observation_space.shape or ())), 8).requires_grad_(False)

    def forward(self, obs: th.Tensor) -> th.Tensor:
        return self.net(obs)


def vec_env(
    env_id: str | Callable[..., gym.Env], n_envs: int = 1, wrap: Callable[[VecEnv], VecEnv] | None = None, **kwargs: Any
):
    def make() -> VecEnv:
        venv = make_vec_env(env_id, n_envs=n_envs, seed=3, **kwargs)
        return venv if wrap is None else wrap(venv)

    return make


def linear(progress_remaining: float) -> float:
    return 1e-3 * progress_remaining


def image_env() -> gym.Env:
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1)
    env.observation_space.seed(5)  # it samples its images, and seeds their space nowhere
    return env


def dict_env() -> gym.Env:
    env = SimpleMultiObsEnv(random_start=False)  # else it draws from NumPy's generator, and evaluating with it too
    env.observation_space.seed(5)
    return env


def half_precision_env() -> gym.Env:
    space = spaces.Box(-np.inf, np.inf, (4,), np.float16)
    return gym.wrappers.TransformObservation(gym.make("CartPole-v1"), lambda obs: obs.astype(np.float16), space)


def unmonitored(env_id: str, n_envs: int) -> VecEnv:
    return DummyVecEnv([lambda: gym.make(env_id) for _ in range(n_envs)])


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "pendulum by id": (lambda: "Pendulum-v1", {}),
    "pendulum": (vec_env("Pendulum-v1"), {}),
    "cartpole, 3 envs": (vec_env("CartPole-v1", 3), {}),
    "multi-discrete": (vec_env(lambda: IdentityEnvMultiDiscrete(dim=4, ep_length=7), 2), {}),
    "multi-binary": (vec_env(lambda: IdentityEnvMultiBinary(dim=4, ep_length=7)), {}),
    "dict observations": (vec_env(dict_env, 2), {"policy": "MultiInputPolicy"}),
    "cnn": (vec_env(image_env, 2), {"policy": "CnnPolicy", "n": 60}),
    "cnn, frames stacked": (
        vec_env(image_env, 2, lambda venv: VecFrameStack(venv, 3)),
        {"policy": "CnnPolicy", "n": 60, "policy_kwargs": dict(features_extractor_kwargs=dict(features_dim=32))},
    ),
    "normalized, 3 envs": (vec_env("Pendulum-v1", 3, VecNormalize), {}),
    "normalized, half precision": (vec_env(half_precision_env, 2, VecNormalize), {}),
    "wrappers nested": (
        lambda: VecNormalize(VecFrameStack(VecCheckNan(VecMonitor(unmonitored("CartPole-v1", 2))), 2)),
        {},
    ),
    "subprocesses": (vec_env("CartPole-v1", 2, vec_env_cls=SubprocVecEnv), {}),
    "linear schedule": (vec_env("CartPole-v1"), {"learning_rate": linear}),
    "adam": (vec_env("Pendulum-v1", 2), {"use_rms_prop": False}),
    "rmsprop as in tensorflow": (vec_env("Pendulum-v1"), {"policy_kwargs": dict(optimizer_class=RMSpropTFLike)}),
    "rmsprop with momentum": (
        vec_env("Pendulum-v1"),
        {"policy_kwargs": dict(optimizer_class=th.optim.RMSprop, optimizer_kwargs=dict(momentum=0.5, weight_decay=1e-3))},
    ),
    "adamw": (vec_env("Pendulum-v1"), {"policy_kwargs": dict(optimizer_class=th.optim.AdamW)}),
    "sgd with nesterov": (
        vec_env("Pendulum-v1"),
        {"policy_kwargs": dict(optimizer_class=th.optim.SGD, optimizer_kwargs=dict(momentum=0.9, nesterov=True))},
    ),
    "gsde": (vec_env("Pendulum-v1", 2), {"use_sde": True, "sde_sample_freq": 3}),
    "gsde, squashed": (vec_env("Pendulum-v1"), {"use_sde": True, "policy_kwargs": dict(squash_output=True)}),
    "normalized advantage": (vec_env("Pendulum-v1", 2), {"normalize_advantage": True}),
    "gae, entropy, longer rollouts": (
        vec_env("CartPole-v1", 2),
        {"gae_lambda": 0.9, "gamma": 0.95, "ent_coef": 0.01, "vf_coef": 0.25, "n_steps": 16, "max_grad_norm": 0.1},
    ),
    "one step a rollout": (vec_env("CartPole-v1", 2), {"n_steps": 1}),
    "wide networks, own extractors": (
        vec_env("Pendulum-v1", 2),
        {
            "policy_kwargs": dict(
                net_arch=dict(pi=[400], vf=[300, 20]), share_features_extractor=False, activation_fn=th.nn.ReLU
            )
        },
    ),
    "batch norm and dropout": (
        vec_env("Pendulum-v1", 4),
        {"policy_kwargs": dict(features_extractor_class=DropoutBatchNorm)},
    ),
    "bounded actions": (vec_env("Pendulum-v1", 2), {"policy": BoundedMlpPolicy, "ent_coef": 0.01}),
    "bounded actions, clipped, as in the tutorial": (
        vec_env("Pendulum-v1"),
        {
            "policy": BoundedMlpPolicy,
            "max_grad_norm": float("inf"),
            "policy_kwargs": dict(
                clip_actions=True, optimizer_class=RMSpropTFLike, optimizer_kwargs=dict(alpha=0.9, eps=1e-10)
            ),
        },
    ),
    "frozen parameters": (vec_env("Pendulum-v1"), {"policy_kwargs": dict(features_extractor_class=FrozenFeatures)}),
}


def make(algorithm: type[BaseAlgorithm], case: str, **kwargs: Any) -> tuple[BaseAlgorithm, int]:
    make_env, options = CASES[case]
    options = {"policy": "MlpPolicy", "n": 400, "policy_kwargs": {}, **options}
    policy, n = options.pop("policy"), options.pop("n")
    policy_kwargs = dict(options.pop("policy_kwargs"))
    np.random.seed(2)  # some of SB3's environments draw from it when they are made
    return algorithm(policy, make_env(), seed=1, policy_kwargs=policy_kwargs or None, **options, **kwargs), n


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested containers as one flat dict of arrays and plain values, so that two of them can be compared."""
    if isinstance(value, dict):
        items = [(str(key), entry) for key, entry in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(str(index), entry) for index, entry in enumerate(value)]
    else:
        return {prefix: value.detach().cpu().numpy().copy() if isinstance(value, th.Tensor) else value}
    return {name: leaf for key, entry in items for name, leaf in flatten(entry, f"{prefix}/{key}").items()}


def assert_equal_to_the_bit(actual: Any, expected: Any) -> None:
    actual, expected = flatten(actual), flatten(expected)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert (actual[name].dtype, actual[name].shape) == (value.dtype, value.shape), name
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def learned(model: BaseAlgorithm) -> dict[str, Any]:
    """All that a run leaves behind; only the episodes' wall-clock times are not compared."""
    assert model.env is not None and model.ep_info_buffer is not None
    return {
        "parameters": model.get_parameters(),
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "progress": model._current_progress_remaining,
        "episodes": [(info["r"], info["l"]) for info in model.ep_info_buffer],
        "statistics": [(rms.mean, rms.var, rms.count) for rms in running_statistics(model.env)],
        "last_obs": model._last_obs,
        "last_episode_starts": model._last_episode_starts,
        "training": model.policy.training,
        "torch generator": th.get_rng_state(),
        "numpy generator": np.random.get_state()[1:3],
    }


@pytest.mark.parametrize("case", CASES)
def test_learns_what_a2c_learns(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, n = make(A2C, case)
    expected = learned(model.learn(n))
    model.env.close()
    updates: list[Worker] = []
    push = Worker.push
    monkeypatch.setattr(Worker, "push", lambda worker: updates.append(worker) or push(worker))
    model, n = make(A3C, case, n_workers=1, engine="torch")
    actual = learned(model.learn(n))
    model.env.close()
    assert_equal_to_the_bit(actual, expected)
    assert len(updates) == model._n_updates > 3  # and by the code that many workers run


def test_goes_on_as_a2c_goes_on() -> None:
    """A second learn() that goes on, one that starts again, and one after saving and loading."""
    runs = []
    for algorithm, kwargs in ((A2C, {}), (A3C, {"n_workers": 1, "engine": "torch"})):
        model, n = make(algorithm, "normalized, 3 envs", **kwargs)
        model.learn(n).learn(n, reset_num_timesteps=False).learn(n)
        runs.append(learned(model))
    assert_equal_to_the_bit(*runs)


class Notebook(KVWriter):
    """Notes all that is logged, but for times."""

    def __init__(self) -> None:
        self.notes: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        kept = {key: value for key, value in key_values.items() if not key.startswith(("time/fps", "time/time", "async/"))}
        self.notes.append((step, kept))

    def close(self) -> None:
        pass


class Watcher(BaseCallback):
    """Notes all that a callback may look at, at each of its calls."""

    LOCALS = (
        "n_rollout_steps", "n_steps", "obs_tensor", "actions", "values", "log_probs", "clipped_actions", "new_obs",
        "rewards", "dones", "iteration", "total_timesteps", "tb_log_name", "log_interval", "reset_num_timesteps",
        "progress_bar",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Any] = []

    def note(self, event: str, *names: str) -> None:
        model, buffer = self.model, self.model.rollout_buffer
        seen: dict[str, Any] = {"event": event, "num_timesteps": model.num_timesteps, "calls": self.n_calls}
        seen |= {name: self.locals[name] for name in names}
        if isinstance(self, Peeker):
            seen["training"] = model.policy.training
            seen["episodes"] = [(info["r"], info["l"]) for info in model.ep_info_buffer]
        else:
            seen["rollout_buffer"] = {"pos": buffer.pos, "full": buffer.full}
        if names:
            assert self.locals["self"] is model and self.locals["env"] is model.env
            assert self.locals["rollout_buffer"] is buffer
            segment = ("observations", "actions", "rewards", "values", "log_probs", "episode_starts")
            seen["segment"] = {name: getattr(buffer, name) for name in (*segment, "advantages", "returns")}
            seen["infos"] = [{key: value for key, value in info.items() if key != "episode"} for info in self.locals["infos"]]
            seen["training"] = model.policy.training
            seen["env"] = [
                (layer.old_obs, layer.old_reward, layer.returns) for layer in [model.get_vec_normalize_env()] if layer
            ]
            seen["reset_infos"] = list(model.env.reset_infos)
        seen["last_obs"] = model._last_obs
        seen["policy"] = model.get_parameters()
        seen["progress"] = model._current_progress_remaining
        seen["statistics"] = [(rms.mean, rms.var, rms.count) for rms in running_statistics(model.env)]
        seen["logged"] = {key: value for key, value in model.logger.name_to_value.items() if not key.startswith("async/")}
        self.notes.append(
            {key: np.copy(value) if isinstance(value, np.ndarray) else value for key, value in flatten(seen).items()}
        )

    def _on_training_start(self) -> None:
        self.note("training start")

    def _on_rollout_start(self) -> None:
        self.note("rollout start")

    def _on_step(self) -> bool:
        self.note("step", *self.LOCALS[:10])
        return True

    def _on_rollout_end(self) -> None:
        self.note("rollout end", *self.LOCALS[:1], *self.LOCALS[2:3], *self.LOCALS[4:])

    def _on_training_end(self) -> None:
        self.note("training end")


class Peeker(Watcher):
    """Notes what the model is, at each seventh of its calls and at the ends of the rollouts in which those are."""

    def looks(self, n_steps: int) -> bool:
        return self.n_calls % 7 + n_steps >= 7

    def _on_rollout_start(self) -> None:
        self.looked = self.looks(self.model.n_steps)
        if self.looked:
            self.note("rollout start")

    def _on_step(self) -> bool:
        if self.n_calls % 7 == 0:
            self.note("step")
        return True

    def _on_rollout_end(self) -> None:
        if self.looked:
            self.note("rollout end")


register_callback(Peeker, Peeker.looks)


SEEN_CASES = ["pendulum", "cartpole, 3 envs", "normalized, 3 envs", "wrappers nested", "dict observations"]


@pytest.mark.parametrize("case", SEEN_CASES)
def test_callbacks_see_what_they_see_with_a2c(case: str) -> None:
    runs = []
    for algorithm, kwargs in ((A2C, {}), (A3C, {"n_workers": 1, "engine": "torch"})):
        model, n = make(algorithm, case, **kwargs)
        eval_env = model._wrap_env(CASES[case][0]())
        eval_env.seed(4)
        evaluation = EvalCallback(eval_env, eval_freq=23, n_eval_episodes=2, verbose=0)
        watcher, notebook = Watcher(), Notebook()
        model.set_logger(Logger(folder=None, output_formats=[notebook]))
        model.learn(n // 2, callback=CallbackList([watcher, evaluation]), log_interval=7, tb_log_name="x")
        runs.append((watcher.notes, evaluation.evaluations_results, evaluation.best_mean_reward, notebook.notes))
    assert len(runs[0][0]) == len(runs[1][0])
    for actual, expected in zip(runs[1][0], runs[0][0], strict=True):
        assert_equal_to_the_bit(actual, expected)
    assert_equal_to_the_bit(runs[1][1:], runs[0][1:])
    assert runs[0][3]  # something was logged


@pytest.mark.parametrize("case", SEEN_CASES)
def test_callbacks_that_look_at_the_model_see_what_they_see_with_a2c(case: str, tmp_path: Path) -> None:
    """Rarely, and in the middle of rollouts."""
    runs = []
    for algorithm, kwargs in ((A2C, {}), (A3C, {"n_workers": 1, "engine": "torch"})):
        model, n = make(algorithm, case, **kwargs)
        eval_env = model._wrap_env(CASES[case][0]())
        eval_env.seed(4)
        path = tmp_path / algorithm.__name__
        evaluation = EvalCallback(eval_env, eval_freq=23, n_eval_episodes=2, verbose=0, best_model_save_path=str(path))
        checkpoints = EveryNTimesteps(46, CheckpointCallback(1, str(path), save_vecnormalize=True))
        peeker, notebook = Peeker(), Notebook()
        model.set_logger(Logger(folder=None, output_formats=[notebook]))
        callbacks: list[BaseCallback] = [peeker, evaluation, checkpoints, LogEveryNTimesteps(50)]
        model.learn(n // 2, callback=callbacks, log_interval=7, tb_log_name="x")
        saved = [(file.name, learned(model.load(file, make(algorithm, case)[0].env))) for file in sorted(path.glob("*.zip"))]
        normalizations = [pickle.loads(file.read_bytes()) for file in sorted(path.glob("*.pkl"))]
        of_normalizations = [(vec.old_obs, vec.old_reward, vec.obs_rms.mean, vec.ret_rms.var) for vec in normalizations]
        runs.append((peeker.notes, evaluation.best_mean_reward, notebook.notes, saved, of_normalizations))
    (notes, _, logged, saved, _), actual = runs
    assert len(notes) == len(actual[0]) > 10 and logged and len(saved) > 2
    for actual_note, note in zip(actual[0], notes, strict=True):
        assert_equal_to_the_bit(actual_note, note)
    assert_equal_to_the_bit(actual[1:], runs[0][1:])


def test_one_worker_is_a2c_on_every_backend() -> None:
    runs = []
    for algorithm, kwargs in (
        (A2C, {}),
        (A3C, {"backend": "serial"}),
        (A3C, {"backend": "thread", "rollout_order": "arrival"}),
    ):
        model, n = make(algorithm, "cartpole, 3 envs", **(kwargs and {"n_workers": 1, "engine": "torch", **kwargs}))
        runs.append(learned(model.learn(n)))
    assert_equal_to_the_bit(runs[1], runs[0])
    assert_equal_to_the_bit(runs[2], runs[0])


def test_supports_the_action_spaces_that_a2c_supports() -> None:
    class TupleActions(gym.Env):
        observation_space = spaces.Box(-1, 1, (2,))
        action_space = spaces.Tuple([spaces.Discrete(2)])

    for algorithm in (A2C, A3C):
        with pytest.raises(AssertionError, match="action spaces"):
            algorithm("MlpPolicy", TupleActions())
