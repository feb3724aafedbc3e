"""Other packages work with A3C as their documentation shows for A2C: in threads, and in processes where that makes sense."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, RecordVideo
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper, VecMonitor, VecVideoRecorder

from sb3_a3c import A3C, BoundedMlpPolicy
from sb3_a3c.backends.process.parcel import note_of_cloudpickle

ROOT = Path(__file__).parents[1]
BACKENDS = ["thread", "process"]
#: Packages that are not ours warn when they are imported or used.
not_our_warnings = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:.*render_mode:UserWarning", "ignore:.*Overwriting existing videos"
)


def learned(env: VecEnv | gym.Env | str, policy: Any = "MlpPolicy", steps: int = 80, **kwargs: Any) -> A3C:
    """A model that has learned from the environments, which are closed."""
    model = A3C(policy, env, **kwargs)
    before = model.policy.parameters_to_vector()
    model.learn(steps)
    assert model.num_timesteps == steps and not np.array_equal(before, model.policy.parameters_to_vector())
    assert model.env is not None
    model.env.close()
    return model


# Environments


class CnnOfMinigrid(BaseFeaturesExtractor):
    """As in Minigrid's documentation: its images are too small for the CNN of Stable-Baselines3."""

    def __init__(self, observation_space: spaces.Box, features_dim: int = 32) -> None:
        super().__init__(observation_space, features_dim)
        convolutions = [th.nn.Conv2d(observation_space.shape[0], 16, (2, 2)), th.nn.ReLU(), th.nn.Flatten()]
        size = 16 * (observation_space.shape[1] - 1) * (observation_space.shape[2] - 1)
        self.layers = th.nn.Sequential(*convolutions, th.nn.Linear(size, features_dim), th.nn.ReLU())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


@not_our_warnings
@pytest.mark.parametrize("backend", BACKENDS)
def test_minigrid(backend: str) -> None:
    pytest.importorskip("minigrid")
    from minigrid.wrappers import ImgObsWrapper

    env = make_vec_env("MiniGrid-Empty-5x5-v0", n_envs=2, wrapper_class=ImgObsWrapper)
    learned(env, "CnnPolicy", policy_kwargs=dict(features_extractor_class=CnnOfMinigrid), backend=backend)


@not_our_warnings
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("vec_env", [DummyVecEnv, SubprocVecEnv])
def test_highway_env(vec_env: type[VecEnv], backend: str) -> None:
    pytest.importorskip("highway_env")
    learned(make_vec_env("highway_env:highway-fast-v0", n_envs=2, vec_env_cls=vec_env), steps=20, backend=backend)  # type: ignore


def rock_paper_scissors() -> Any:
    """Two agents as a vector environment of SuperSuit."""
    supersuit = pytest.importorskip("supersuit")
    from pettingzoo.classic import rps_v2

    return supersuit.pettingzoo_env_to_vec_env_v1(rps_v2.parallel_env(max_cycles=10))


@not_our_warnings
@pytest.mark.parametrize("backend", BACKENDS)
def test_pettingzoo_through_supersuit_has_one_worker(backend: str) -> None:
    supersuit = pytest.importorskip("supersuit")
    env = supersuit.concat_vec_envs_v1(rock_paper_scissors(), 2, base_class="stable_baselines3")
    with pytest.warns(UserWarning, match="one worker instead of 4: SB3VecEnvWrapper is not known to work in slices"):
        model = learned(VecMonitor(env), backend=backend)
    assert {episode["l"] for episode in model.ep_info_buffer or ()} == {10}


@not_our_warnings
def test_a_function_that_makes_an_environment_of_supersuit_is_told_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"no single_observation_space.*concat_vec_envs_v1\(.*stable_baselines3"):
        A3C("MlpPolicy", rock_paper_scissors, n_workers=2)


class WithoutHasAttr(VecEnvWrapper):
    """As SuperSuit's, whose inner environment is no VecEnv."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        return self.venv.step_wait()

    def has_attr(self, attr_name: str) -> bool:
        raise AttributeError("'ConcatVecEnv' object has no attribute 'has_attr'")


def test_a_vec_env_needs_no_has_attr() -> None:
    learned(WithoutHasAttr(make_vec_env("CartPole-v1", n_envs=2)), n_workers=1)


@not_our_warnings
@pytest.mark.parametrize("vec_env, backend", [(DummyVecEnv, "thread"), (SubprocVecEnv, "thread"), (SubprocVecEnv, "process")])
def test_panda_gym(vec_env: type[VecEnv], backend: str) -> None:
    pytest.importorskip("panda_gym")
    env = make_vec_env("panda_gym:PandaReachDense-v3", n_envs=2, vec_env_cls=vec_env)  # type: ignore[arg-type]
    learned(env, "MultiInputPolicy", backend=backend)


@not_our_warnings
@pytest.mark.parametrize("backend", BACKENDS)
def test_dm_control_through_shimmy(backend: str) -> None:
    pytest.importorskip("dm_control")
    pytest.importorskip("shimmy")
    env = make_vec_env("dm_control/cartpole-balance-v0", n_envs=2, wrapper_class=FlattenObservation)
    learned(env, backend=backend)


# Videos


def recorded(index: int, folder: Path) -> Callable[[], gym.Env]:
    def make() -> gym.Env:
        env = gym.make("CartPole-v1", render_mode="rgb_array")
        return Monitor(RecordVideo(env, str(folder), episode_trigger=lambda n: n == 0, name_prefix=f"env{index}"))

    return make


@pytest.mark.slow
@not_our_warnings
@pytest.mark.parametrize("vec_env, backend", [(DummyVecEnv, "thread"), (SubprocVecEnv, "process")])
def test_record_video_records_each_environment(vec_env: type[VecEnv], backend: str, tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    learned(vec_env([recorded(index, tmp_path) for index in range(2)]), steps=200, backend=backend)  # type: ignore
    assert {path.name for path in tmp_path.iterdir()} == {"env0-episode-0.mp4", "env1-episode-0.mp4"}


@not_our_warnings
def test_record_video_in_processes_needs_a_subproc_vec_env(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    env = DummyVecEnv([recorded(index, tmp_path) for index in range(2)])
    with pytest.raises(TypeError, match=r"can't be pickled for another process.*Use a SubprocVecEnv"):
        A3C("MlpPolicy", env, backend="process").learn(80)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RecordVideo has nothing to save
        env.close()


@pytest.mark.slow
@not_our_warnings
def test_vec_video_recorder_has_one_worker(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    env = make_vec_env("CartPole-v1", n_envs=2, env_kwargs=dict(render_mode="rgb_array"))
    env = VecVideoRecorder(env, str(tmp_path), record_video_trigger=lambda step: step == 0, video_length=20)
    with pytest.warns(UserWarning, match="one worker instead of 2: VecVideoRecorder is not known to work in slices"):
        learned(env)
    assert [path.name for path in tmp_path.iterdir()] == ["rl-video-step-0-to-step-20.mp4"]


# Experiment trackers


class Written(KVWriter):
    """A format of SB3's logger, as those for MLflow and Neptune are. Hands each number to a function."""

    def __init__(self, log: Callable[[str, float, int], object]) -> None:
        self.log = log

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        for key, value in key_values.items():
            if isinstance(value, np.ScalarType) and not isinstance(value, str):
                self.log(key, float(value), step)

    def close(self) -> None:
        """Nothing to close."""


def learn_and_log(backend: str, log: Callable[[str, float, int], object]) -> None:
    model = A3C("MlpPolicy", "CartPole-v1", n_workers=2, backend=backend)
    model.set_logger(Logger(folder=None, output_formats=[Written(log)]))
    model.learn(600, log_interval=20)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_logger_format(backend: str) -> None:
    rows: list[tuple[str, float, int]] = []
    learn_and_log(backend, lambda *row: rows.append(row))
    assert [step for key, _, step in rows if key == "train/value_loss"] == [200, 400, 600]
    assert {"rollout/ep_rew_mean", "time/fps", "train/policy_loss"} <= {key for key, _, _ in rows}


@not_our_warnings
@pytest.mark.parametrize("backend", BACKENDS)
def test_mlflow(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        learn_and_log(backend, mlflow.log_metric)
    history = mlflow.tracking.MlflowClient().get_metric_history(run.info.run_id, "train/value_loss")
    assert [metric.step for metric in history] == [200, 400, 600]


@not_our_warnings
@pytest.mark.parametrize("backend", BACKENDS)
def test_neptune(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    neptune = pytest.importorskip("neptune")
    monkeypatch.chdir(tmp_path)
    run = neptune.init_run(mode="debug", capture_hardware_metrics=False)
    learn_and_log(backend, lambda key, value, step: run[key].append(value, step=step))
    run.stop()


@pytest.mark.slow
@not_our_warnings
@pytest.mark.parametrize("backend", BACKENDS)
def test_wandb(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = pytest.importorskip("wandb")
    from wandb.integration.sb3 import WandbCallback

    run = wandb.init(project="sb3", sync_tensorboard=True, dir=str(tmp_path))
    model = A3C("MlpPolicy", "CartPole-v1", n_workers=2, backend=backend, tensorboard_log=str(tmp_path / "tensorboard"))
    callback = WandbCallback(gradient_save_freq=20, model_save_path=str(tmp_path / "model"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.learn(2_000, callback=callback, log_interval=20)
    run.finish()
    told_of_hooks = any("the hooks of wandb.watch() are not called" in str(warning.message) for warning in told)
    assert told_of_hooks == (backend == "process")
    (content,) = [path.read_bytes() for path in tmp_path.glob("wandb/offline-run-*/*.wandb")]
    assert b"rollout/ep_rew_mean" in content and (b"gradients/" in content) == (backend == "thread")
    A3C.load(tmp_path / "model" / "model.zip")


def test_the_hooks_of_wandb_stay_in_the_main_process() -> None:
    """A copy of one fails in another process, but not before as many calls as log_freq says."""

    def log_gradient(gradient: th.Tensor) -> None:
        calls.append(gradient)

    calls: list[th.Tensor] = []
    hook = FunctionType(log_gradient.__code__, globals(), "hook", None, log_gradient.__closure__)
    hook.__module__ = "wandb.integration.torch.wandb_torch"
    model = A3C("MlpPolicy", "CartPole-v1", n_workers=2, backend="process", engine="torch")
    model.policy.value_net.weight.register_hook(hook)
    with pytest.warns(UserWarning, match=r"hooks of wandb\.watch\(\) are not called by the workers.*backend='thread'"):
        model.learn(40)
    model.backend = "thread"
    model.learn(40)
    assert len(calls) == 8  # one per gradient


# Models elsewhere


@pytest.mark.slow
@not_our_warnings
def test_a_package_for_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the upload, which copies the files to a folder."""
    pytest.importorskip("huggingface_sb3")
    pytest.importorskip("moviepy")
    from huggingface_hub import HfApi
    from huggingface_sb3 import package_to_hub

    def upload(self: HfApi, folder_path: Path, **kwargs: Any) -> None:
        for path in Path(folder_path).iterdir():
            path.rename(tmp_path / path.name)

    class Repo:
        repo_id = "me/a3c"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, **kwargs: Repo())
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    model = A3C("MlpPolicy", "CartPole-v1", n_workers=2).learn(80)
    package_to_hub(
        model=model,
        model_name="a3c-CartPole-v1",
        model_architecture="A3C",
        env_id="CartPole-v1",
        eval_env=make_vec_env("CartPole-v1", n_envs=1, env_kwargs=dict(render_mode="rgb_array")),
        repo_id=Repo.repo_id,
        commit_message="A3C",
        n_eval_episodes=2,
        video_length=20,
    )
    assert "A3C" in (tmp_path / "README.md").read_text()
    loaded = A3C.load(tmp_path / "a3c-CartPole-v1.zip")
    np.testing.assert_array_equal(loaded.policy.parameters_to_vector(), model.policy.parameters_to_vector())


class AsSb3Shows(th.nn.Module):
    """The module in SB3's documentation of its export to ONNX."""

    def __init__(self, policy: th.nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        return self.policy(observation, deterministic=True)


@pytest.mark.filterwarnings("ignore")  # torch's exporter has many
@pytest.mark.parametrize("policy", ["MlpPolicy", BoundedMlpPolicy])
def test_onnx(policy: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    model = learned("Pendulum-v1", policy, n_workers=2)
    obs = np.array([[0.5, -0.5, 2.0]], dtype=np.float32)
    path = str(tmp_path / "model.onnx")
    th.onnx.export(AsSb3Shows(model.policy), (th.as_tensor(obs),), path, input_names=["input"], dynamo=False)
    actions, values, log_probs = ReferenceEvaluator(path).run(None, {"input": obs})
    with th.no_grad():
        expected = model.policy(th.as_tensor(obs), deterministic=True)
    for found, tensor in zip((actions, values, log_probs), expected, strict=True):
        np.testing.assert_allclose(found, tensor.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@not_our_warnings
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("backend", BACKENDS)
def test_behaviour_cloning_comes_first(backend: str) -> None:
    pytest.importorskip("imitation")
    from imitation.algorithms.bc import BC
    from imitation.data import rollout
    from imitation.data.wrappers import RolloutInfoWrapper

    env, rng = make_vec_env("CartPole-v1", n_envs=2, wrapper_class=RolloutInfoWrapper), np.random.default_rng(0)
    expert = A3C("MlpPolicy", env, n_workers=2).learn(200)
    trajectories = rollout.rollout(expert, env, rollout.make_sample_until(None, 4), rng=rng)
    model = A3C("MlpPolicy", env, n_workers=2, backend=backend, learning_rate=1e-9)
    cloning = BC(
        observation_space=env.observation_space,
        action_space=env.action_space,
        demonstrations=rollout.flatten_trajectories(trajectories),
        rng=rng,
        policy=model.policy,
    )
    cloning.train(n_epochs=1)
    cloned = model.policy.parameters_to_vector()
    model.learn(80)  # goes on from there, with steps too small to see
    np.testing.assert_allclose(model.policy.parameters_to_vector(), cloned, atol=1e-5)


class PickledWithAnOldCloudpickle(gym.Wrapper):
    """Raises in a worker process what cloudpickle 1.6.0 makes Python 3.11 raise."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        import cloudpickle

        cloudpickle.__version__ = "1.6.0"
        raise TypeError("code() argument 13 must be str, not int")


def test_an_error_in_a_worker_process_says_that_cloudpickle_is_too_old() -> None:
    assert note_of_cloudpickle() == ""
    env = make_vec_env("CartPole-v1", n_envs=2, wrapper_class=PickledWithAnOldCloudpickle)
    with pytest.raises(TypeError, match="argument 13 must be str") as raised:
        A3C("MlpPolicy", env, backend="process").learn(80)
    notes = "".join(raised.value.__notes__)
    assert "cloudpickle 1.6.0, which is too old for this Python" in notes and "pip install 'cloudpickle>=2.2'" in notes


# Notebooks


@pytest.mark.slow
@not_our_warnings
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment is a class of its kernel's ``__main__``, which worker processes can't import."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples/notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["kernelspec"] = kernel
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output["text"] for output in outputs if output.get("name") == "stderr" and "Warning" in output["text"]]
    assert (tmp_path / "lanes.zip").is_file()
