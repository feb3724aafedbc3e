"""A bad argument is a ValueError at once, which names the argument, its value and what is allowed."""

import inspect
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_a3c import A3C
from sb3_a3c.backends import BACKENDS
from sb3_a3c.engines import ENGINES


def test_the_constructor_is_a2cs() -> None:
    ours, theirs = (list(inspect.signature(cls.__init__).parameters.values()) for cls in (A3C, A2C))
    assert [(p.name, p.default, p.kind) for p in ours[: len(theirs)]] == [(p.name, p.default, p.kind) for p in theirs]
    own = {p.name: p.default for p in ours[len(theirs) :]}
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in ours[len(theirs) :])
    assert own == dict(
        n_workers=None,
        backend="thread",
        backend_kwargs=None,
        engine="auto",
        use_locking=True,
        rollout_order="env",
        max_lead=64,
        max_lead_bytes=2**28,
        std_scale=1.0,
        vf_learning_rate=None,
    )


def test_learn_is_a2cs() -> None:
    ours, theirs = (inspect.signature(cls.learn).parameters for cls in (A3C, A2C))
    assert list(ours) == list(theirs)
    changed = {"total_timesteps", "tb_log_name"}
    assert all(ours[name].default == theirs[name].default for name in ours if name not in changed)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"n_workers": 0}, "n_workers must be None or a whole number of at least 1, but it is 0"),
    ({"n_workers": -2}, "n_workers must be None or a whole number of at least 1, but it is -2"),
    ({"n_workers": 1.5}, "n_workers must be .*, but it is 1.5"),
    ({"n_workers": True}, "n_workers must be .*, but it is True"),
    ({"n_workers": "2"}, "n_workers must be .*, but it is '2'"),
    ({"n_workers": 3}, "n_workers must be at most the number of environments, 2 .*, but it is 3"),
    ({"backend": "rocket"}, r"backend must be one of \['process', 'ray', 'serial', 'thread'\], but it is 'rocket'"),
    ({"backend": None}, "backend must be one of"),
    ({"backend": ["thread"]}, r"backend must be one of .*, but it is \['thread'\]"),
    (
        {"backend_kwargs": {"start_method": "spawn"}},
        "backend_kwargs must be None, because there are no options for",
    ),
    (
        {"backend": "process", "backend_kwargs": {"startmethod": "spawn"}},
        r"backend_kwargs must be None, or a dict with some of \['max_restarts', 'start_method', 'worker_timeout'\] "
        r"for backend 'process', but it is {'startm",
    ),
    (
        {"backend": "process", "backend_kwargs": {"start_method": "sporn"}},
        r"backend_kwargs\['start_method'\] must be one of \['forkserver', 'spawn', 'fork'\], but it is 'sporn'",
    ),
    ({"engine": "steam"}, r"engine must be one of \['auto', 'fused', 'torch'\], but it is 'steam'"),
    ({"rollout_order": "random"}, r"rollout_order must be one of \['arrival', 'env'\], but it is 'random'"),
    ({"max_lead": -1}, "max_lead must be a whole number of at least 0, but it is -1"),
    ({"max_lead": None}, "max_lead must be a whole number of at least 0, but it is None"),
    ({"max_lead_bytes": 1.5e9}, "max_lead_bytes must be a whole number of at least 0, but it is 1500000000.0"),
    ({"use_locking": "yes"}, "use_locking must be True or False, but it is 'yes'"),
    ({"ent_coef": [0.1]}, "ent_coef must be a number, or 2 of them: one per worker, but it is"),
    ({"ent_coef": [0.1, "0.2"]}, "ent_coef must be a finite number, or one per worker"),
    ({"std_scale": [2.0]}, "std_scale must be a number, or 2 of them: one per worker, but it is"),
    ({"std_scale": [1.0, None]}, "std_scale must be a finite number, or one per worker"),
    ({"std_scale": [1.0, 0.0]}, r"std_scale must be above 0, but it is \[1.0, 0.0\]"),
    ({"ent_coef": float("nan")}, "ent_coef must be .*, but it is nan"),
    ({"ent_coef": "0.1"}, "ent_coef must be a finite number, or one per worker, but it is '0.1'"),
    ({"ent_coef": np.array([0.1, 0.2, 0.3])}, "ent_coef must be a number, or 2 of them: one per worker, but it is array"),
    ({"ent_coef": np.array([[0.1, 0.2]] * 2)}, "ent_coef must be a finite number, or one per worker, but it is array"),
    ({"ent_coef": th.tensor([0.1, float("nan")])}, r"ent_coef must be a finite number, or one per worker, but it is tensor"),
    ({"std_scale": np.array([1.0, 0.0])}, r"std_scale must be above 0, but it is array"),
    ({"std_scale": (1.0, 2.0, 3.0)}, r"std_scale must be a number, or 2 of them: one per worker, but it is \(1.0, 2.0, 3.0\)"),
    ({"learning_rate": float("nan")}, "learning_rate must be a number of at least 0, .*, but it is nan"),
    ({"learning_rate": -1e-3}, "learning_rate must be .*, but it is -0.001"),
    ({"learning_rate": lambda _: -1.0}, "learning_rate must be .*, but it is -1.0"),
    ({"vf_learning_rate": float("inf")}, "vf_learning_rate must be .*, but it is inf"),
    ({"vf_learning_rate": "fast"}, "vf_learning_rate must be .*, but it is 'fast'"),
    ({"n_steps": 0}, "n_steps must be a whole number of at least 1, but it is 0"),
    ({"n_steps": 2.5}, "n_steps must be .*, but it is 2.5"),
    ({"gamma": 1.1}, "gamma must be a number from 0 to 1, but it is 1.1"),
    ({"gamma": "high"}, "gamma must be .*, but it is 'high'"),
    ({"gae_lambda": None}, "gae_lambda must be a number from 0 to 1, but it is None"),
    ({"vf_coef": float("nan")}, "vf_coef must be a finite number, but it is nan"),
    ({"max_grad_norm": float("nan")}, "max_grad_norm must be a number above 0, or inf .*, but it is nan"),
    ({"max_grad_norm": 0}, "max_grad_norm must be .*, but it is 0"),
    ({"max_grad_norm": None}, "max_grad_norm must be .*, but it is None"),
    ({"n_steps": 1, "normalize_advantage": True}, "normalize_advantage must be False where .* a single step"),
    ({"rms_prop_eps": "small"}, "rms_prop_eps must be a finite number of at least 0, but it is 'small'"),
    ({"rms_prop_eps": -1e-5}, "rms_prop_eps must be .*, but it is -1e-05"),
    ({"use_rms_prop": "yes"}, "use_rms_prop must be True or False, but it is 'yes'"),
    ({"use_sde": None}, "use_sde must be True or False, but it is None"),
    ({"normalize_advantage": 2}, "normalize_advantage must be True or False, but it is 2"),
    ({"sde_sample_freq": 2.5}, "sde_sample_freq must be a whole number, -1 for .*, but it is 2.5"),
    (
        {"rollout_buffer_class": "RolloutBuffer"},
        "rollout_buffer_class must be None or a class of .*, but it is 'RolloutBuffer'",
    ),
    ({"rollout_buffer_class": dict}, "rollout_buffer_class must be None or a class of .*, but it is <class 'dict'>"),
    ({"rollout_buffer_kwargs": 3}, "rollout_buffer_kwargs must be None or a dict, but it is 3"),
    ({"stats_window_size": -1}, "stats_window_size must be a whole number of at least 0, but it is -1"),
    ({"tensorboard_log": True}, "tensorboard_log must be None or a path, but it is True"),
    ({"policy_kwargs": [64]}, r"policy_kwargs must be None or a dict, but it is \[64\]"),
    ({"verbose": "1"}, "verbose must be 0, 1 or 2, but it is '1'"),
    ({"seed": -1}, r"seed must be None or an int from 0 to 2\*\*32 - 1, but it is -1"),
    ({"seed": 1.5}, "seed must be .*, but it is 1.5"),
    ({"seed": np.int64(3)}, r"seed must be .*, but it is np.int64\(3\)"),
    ({"device": "gpu"}, "device must be 'auto' or a device of PyTorch, such as 'cpu' or 'cuda', but it is 'gpu'"),
    ({"device": None}, "device must be .*, but it is None"),
]


@pytest.mark.parametrize(("kwargs", "message"), BAD, ids=[" ".join(kwargs) for kwargs, _ in BAD])
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    env = make_vec_env("CartPole-v1", n_envs=2)
    with pytest.raises(ValueError, match=message):
        A3C("MlpPolicy", env, **kwargs)


@pytest.mark.parametrize("kwargs", [{"use_sde": np.True_}, {"use_rms_prop": 0}, {"stats_window_size": None}])
def test_arguments_of_other_types_that_a2c_accepts(kwargs: dict[str, Any]) -> None:
    assert A3C("MlpPolicy", make_vec_env("Pendulum-v1", n_envs=2), **kwargs).learn(20).num_timesteps == 20


@pytest.mark.parametrize("env", [None, 3, {}, [lambda: None]])
def test_what_is_no_environment(env: Any) -> None:
    with pytest.raises(ValueError, match=r"env must be a gymnasium.Env, a VecEnv or .*, but it is"):
        A3C("MlpPolicy", env)


def test_an_id_where_an_environment_is_needed(tmp_path: Path) -> None:
    model = A3C("MlpPolicy", "CartPole-v1")
    model.save(tmp_path / "model")
    for use in (model.set_env, lambda env: A3C.load(tmp_path / "model", env=env)):
        with pytest.raises(ValueError, match=r"env must be .*, but it is 'CartPole-v1'. Make an environment first"):
            use("CartPole-v1")  # type: ignore[arg-type]


def test_names_of_policies() -> None:
    with pytest.raises(
        ValueError, match=r"policy must be one of \['BoundedMlpPolicy', .*\], or a class .*, but it is 'MlpPolcy'"
    ):
        A3C("MlpPolcy", "CartPole-v1")


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(th.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="device is 'cuda:1', but this PyTorch .* so the CPU is used") as caught:
        model = A3C("MlpPolicy", "CartPole-v1", device="cuda:1")
    assert caught[0].filename == __file__ and model.device.type == "cpu"
    model.save(tmp_path / "model")
    with pytest.warns(UserWarning, match="so the CPU is used"):
        A3C.load(tmp_path / "model", device="cuda")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"total_timesteps": float("nan")}, "total_timesteps must be a number, but it is nan"),
        ({"total_timesteps": "many"}, "total_timesteps must be a number, but it is 'many'"),
        ({"total_timesteps": 20, "log_interval": 0}, "log_interval must be None or a whole number of at least 1, but it is 0"),
    ],
)
def test_bad_arguments_of_learn(kwargs: dict[str, Any], message: str) -> None:
    model = A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2))
    with pytest.raises(ValueError, match=message):
        model.learn(**kwargs)
    assert model.num_timesteps == 0 and model.learn(20).num_timesteps == 20


def test_learning_without_an_environment(tmp_path: Path) -> None:
    A3C("MlpPolicy", "CartPole-v1").save(tmp_path / "model")
    model = A3C.load(tmp_path / "model")
    with pytest.raises(ValueError, match=r"env must be given to load\(\), or with set_env\(\), .* but it is None"):
        model.learn(20)
    model.set_env(make_vec_env("CartPole-v1", n_envs=model.n_envs))
    assert model.learn(20).num_timesteps == 20


def _model(**kwargs: Any) -> A3C:
    return A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2), **kwargs)


CHANGED: list[tuple[dict[str, Any], str]] = [
    ({"backend": "proces"}, r"backend must be one of \['process', 'ray', 'serial', 'thread'\], but it is 'proces'"),
    ({"engine": "fast"}, r"engine must be one of \['auto', 'fused', 'torch'\], but it is 'fast'"),
    ({"rollout_order": "arival"}, r"rollout_order must be one of \['arrival', 'env'\], but it is 'arival'"),
    (
        {"backend_kwargs": {"start_method": "spawn"}},
        "backend_kwargs must be None, because there are no options for",
    ),
    (
        {"backend": "process", "backend_kwargs": {"startmethod": "spawn"}},
        "backend_kwargs must be None, or a dict with some of .* for backend 'process', but it is {'startm",
    ),
    ({"backend": "process", "backend_kwargs": ["spawn"]}, r"backend_kwargs must be .*, but it is \['spawn'\]"),
    ({"n_workers": 3}, "n_workers must be at most the number of environments, 2 .*, but it is 3"),
    ({"max_lead": -1}, "max_lead must be a whole number of at least 0, but it is -1"),
    ({"use_locking": None}, "use_locking must be True or False, but it is None"),
    ({"ent_coef": [0.1]}, "ent_coef must be a number, or 2 of them: one per worker"),
    ({"std_scale": 2.0}, "std_scale must be 1.0, because this .* has no trainable log_std"),
    ({"gamma": 2}, "gamma must be a number from 0 to 1, but it is 2"),
    ({"n_steps": 8}, "n_steps must be what it was when the model was made, 5: .*, but it is 8"),
    ({"learning_rate": "fast"}, "learning_rate must be .*, but it is 'fast'"),
]


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize(("changed", "message"), CHANGED, ids=[str(changed) for changed, _ in CHANGED])
def test_arguments_that_are_changed_later(changed: dict[str, Any], message: str, loaded: bool) -> None:
    model = _model()
    if loaded:
        zipped = io.BytesIO()
        model.save(zipped)
        model = A3C.load(zipped, env=model.env)
    before = {name: getattr(model, name) for name in changed}
    vars(model).update(changed)
    with pytest.raises(ValueError, match=message):
        model.learn(20)
    vars(model).update(before)
    assert model.learn(20).num_timesteps == 20


@pytest.mark.parametrize(
    "value",
    [(0.25, 0.5), [0.25, 0.5], np.array([0.25, 0.5]), th.tensor([0.25, 0.5]), [np.float32(0.25), th.tensor(0.5)]],
    ids=str,
)
@pytest.mark.parametrize("name", ["ent_coef", "std_scale"])
def test_one_number_per_worker(name: str, value: Any, tmp_path: Path) -> None:
    model = _learned(name, value)
    logged = [model.logger.name_to_value[f"worker_{worker}/{name.removesuffix('_scale')}"] for worker in range(2)]
    assert logged[1] / logged[0] == pytest.approx(2.0)
    model.save(tmp_path / "model")
    loaded = A3C.load(tmp_path / "model", env=model.env)
    assert [float(number) for number in getattr(loaded, name)] == [0.25, 0.5]
    loaded.learn(100, lambda *_: setattr(loaded, name, value) is None)
    mine, theirs = _learned(name, value), _learned(name, [0.25, 0.5])
    assert all(th.equal(a, b) for a, b in zip(mine.policy.parameters(), theirs.policy.parameters(), strict=True))


def _learned(name: str, value: Any) -> A3C:
    env = make_vec_env("Pendulum-v1", n_envs=2, seed=1)
    return A3C("MlpPolicy", env, seed=0, backend="serial", **{name: value}).learn(100)


@pytest.mark.parametrize(
    "value", [np.array(0.5), np.array([0.5]), th.tensor(0.5), th.tensor([0.5]), np.float32(0.5)], ids=repr
)
@pytest.mark.parametrize("name", ["ent_coef", "std_scale"])
def test_an_array_of_one_number_is_a_number(name: str, value: Any) -> None:
    mine, theirs = _learned(name, value), _learned(name, 0.5)
    assert all(th.equal(a, b) for a, b in zip(mine.policy.parameters(), theirs.policy.parameters(), strict=True))


NEVER_CALLED = ["train", "collect_rollouts", "_update_learning_rate", "_update_current_progress_remaining"]


@pytest.mark.parametrize("name", NEVER_CALLED)
def test_subclasses_that_override_what_is_never_called(name: str, tmp_path: Path) -> None:
    subclass: Any = type("MyA3C", (A3C,), {name: lambda self, *args: None})
    message = rf"{name}\(\) must not be overridden, but MyA3C overrides it: that has no effect, .* Use .* instead"
    with pytest.raises(TypeError, match=message):
        subclass("MlpPolicy", "CartPole-v1")
    _model().save(tmp_path / "model")
    with pytest.raises(TypeError, match=message):
        subclass.load(tmp_path / "model")


@pytest.mark.parametrize("name", NEVER_CALLED)
def test_methods_that_are_replaced_and_never_called(name: str) -> None:
    model = _model()
    setattr(model, name, lambda *args: None)
    with pytest.raises(TypeError, match=rf"{name}\(\) must not be overridden, but A3C overrides it"):
        model.learn(20)
    delattr(model, name)
    model.learn(20)


def test_subclasses_that_override_what_is_called() -> None:
    called = []

    class Mine(A3C):
        def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
            called.append("_setup_learn")
            return super()._setup_learn(*args, **kwargs)

        def _setup_model(self) -> None:
            called.append("_setup_model")
            super()._setup_model()

        def dump_logs(self, iteration: int = 0) -> None:
            called.append("dump_logs")
            super().dump_logs(iteration)

        def _update_info_buffer(self, *args: Any, **kwargs: Any) -> None:
            called.append("_update_info_buffer")
            super()._update_info_buffer(*args, **kwargs)

        def predict(self, *args: Any, **kwargs: Any) -> Any:
            called.append("predict")
            return super().predict(*args, **kwargs)

    model = Mine("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2))
    model.learn(400, log_interval=10)
    model.predict(np.zeros((1, 4), np.float32))
    assert called.count("_update_info_buffer") == 200
    assert set(called) == {"_setup_learn", "_setup_model", "dump_logs", "_update_info_buffer", "predict"}


class _Changes(BaseCallback):
    def __init__(self, name: str, value: Any) -> None:
        super().__init__()
        self.name, self.value = name, value

    def _on_step(self) -> bool:
        if self.num_timesteps == 100:
            setattr(self.model, self.name, self.value)
        return True


@pytest.mark.parametrize(("n_workers", "engine"), [(1, "torch"), (2, "torch"), (2, "fused")])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gamma", float("nan"), "gamma must be a number from 0 to 1, but it is nan"),
        ("max_grad_norm", float("nan"), "max_grad_norm must be a number above 0, or inf .*, but it is nan"),
        ("ent_coef", [0.0, 0.1, 0.2], "ent_coef must be a number, or . of them: one per worker, but it is"),
    ],
)
def test_bad_values_from_callbacks(n_workers: int, engine: str, name: str, value: Any, message: str) -> None:
    model = A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2), n_workers=n_workers, engine=engine)
    before = getattr(model, name)
    with pytest.raises(ValueError, match=message):
        model.learn(1_000, _Changes(name, value))
    assert 100 <= model.num_timesteps < 1_000
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    setattr(model, name, before)
    assert model.learn(20).num_timesteps == 20


@pytest.mark.parametrize(
    ("n_workers", "backend", "engine"), [(1, "thread", "torch"), (2, "thread", "fused"), (2, "process", "fused")]
)
@pytest.mark.parametrize("name", ["learning_rate", "vf_learning_rate"])
def test_a_schedule_that_ends_in_nan(n_workers: int, backend: str, engine: str, name: str) -> None:
    """No step is made with it: the parameters stay finite."""
    rates: dict[str, Any] = {name: _nan_below_a_half}
    env = make_vec_env("CartPole-v1", n_envs=2)
    model = A3C("MlpPolicy", env, n_workers=n_workers, backend=backend, engine=engine, **rates)
    with pytest.raises(ValueError, match=f"^{name} must be finite, but it is nan when the progress remaining is 0.4"):
        model.learn(1_000)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


def _nan_below_a_half(progress_remaining: float) -> float:
    return 1e-3 if progress_remaining >= 0.5 else float("nan")


def test_bad_n_workers_with_an_environment_id() -> None:
    with pytest.raises(ValueError, match="n_workers must be None or a whole number of at least 1, but it is 0"):
        A3C("MlpPolicy", "CartPole-v1", n_workers=0)


class _Nested(BaseCallback):
    def __init__(self, other: A3C) -> None:
        super().__init__()
        self.other, self.message = other, ""

    def _on_step(self) -> bool:
        with pytest.raises(ValueError) as error:
            self.other.learn(10)
        self.message = str(error.value)
        return True


@pytest.mark.parametrize("n_workers", [1, 2])
@pytest.mark.parametrize("itself", [True, False])
def test_environments_that_another_learn_is_using(n_workers: int, itself: bool) -> None:
    env = make_vec_env("CartPole-v1", n_envs=2)
    model = A3C("MlpPolicy", env, n_workers=n_workers)
    callback = _Nested(model if itself else A3C("MlpPolicy", VecNormalize(env)))
    model.learn(100, callback)
    assert "env must not be one that another learn() is using, but this DummyVecEnv is" in callback.message
    assert model.num_timesteps == 100 and callback.other.learn(50).num_timesteps == 50


def test_learn_within_learn_with_other_environments() -> None:
    model, other = (A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2)) for _ in range(2))
    model.learn(20, lambda *_: other.learn(20).num_timesteps == 20)
    assert model.num_timesteps == 20


@pytest.mark.parametrize(
    ("algorithm", "policy", "env", "message"),
    [
        (
            PPO,
            "MlpPolicy",
            "CartPole-v1",
            "path must be a zip of A3C or A2C, but it is another algorithm's: it has batch_size, n_ep",
        ),
        (
            DQN,
            "MlpPolicy",
            "CartPole-v1",
            "policy must be a name such as 'MlpPolicy', or a class of actor-critic policies",
        ),
        (SAC, "MlpPolicy", "Pendulum-v1", "policy must be a name such as 'MlpPolicy', or a class of actor-critic policies"),
    ],
)
def test_zips_of_other_algorithms(algorithm: Any, policy: str, env: str, message: str, tmp_path: Path) -> None:
    algorithm(policy, env).save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        A3C.load(tmp_path / "model")


def test_zips_of_a_newer_a3c(tmp_path: Path) -> None:
    model = A3C("MlpPolicy", "CartPole-v1")
    model._format += 1
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="path must be a zip of a format up to 1, but its format is 2"):
        A3C.load(tmp_path / "model")


def test_policies_of_other_algorithms() -> None:
    with pytest.raises(ValueError, match=r"policy must be a name .* but it is <class"):
        A3C(DQNPolicy, "CartPole-v1")  # type: ignore[arg-type]


def test_policies_with_action_masks(tmp_path: Path) -> None:
    class Mine(MaskableActorCriticPolicy):
        pass

    message = "A3C does not support action masks. Use MaskablePPO from sb3_contrib"
    for policy in (MaskableActorCriticPolicy, Mine):
        with pytest.raises(ValueError, match=message):
            A3C(policy, "CartPole-v1")
    MaskablePPO("MlpPolicy", "CartPole-v1").save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        A3C.load(tmp_path / "model")


@pytest.mark.parametrize("env", ["Acrobot-v1", "Pendulum-v1"])
def test_spaces_that_do_not_fit(env: str, tmp_path: Path) -> None:
    """SB3's own words, and they come at once."""
    A3C("MlpPolicy", "CartPole-v1").save(tmp_path / "model")
    with pytest.raises(ValueError, match="spaces do not match"):
        A3C.load(tmp_path / "model", env=make_vec_env(env))


@pytest.mark.parametrize("backend", BACKENDS)
def test_names_are_those_of_the_registries(backend: str) -> None:
    if backend == "ray":
        pytest.importorskip("ray")
    for engine in ("auto", *ENGINES):
        A3C("MlpPolicy", "CartPole-v1", backend=backend, engine=engine)
