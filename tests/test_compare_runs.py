"""A run of a comparison: rl-zoo3's settings, a fair clock, steps of all workers, evaluations of the policy as it was."""

import pickle
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, sync_envs_normalization, unwrap_vec_wrapper

from sb3_a3c import A3C
from sb3_a3c.comparison import run as run_module
from sb3_a3c.comparison.arguments import Arguments
from sb3_a3c.comparison.checkpoints import Checkpoints
from sb3_a3c.comparison.plan import make_specs
from sb3_a3c.comparison.provenance import Provenance
from sb3_a3c.comparison.run import RunResult, RunSpec, Stage, carry_out, eval_seed
from sb3_a3c.comparison.settings import Settings, check_settings, make_env, make_model, read_settings
from sb3_a3c.comparison.step_counts import StepCounts

SETTINGS = """\
atari:
  policy: 'CnnPolicy'

default: &mine
  n_timesteps: !!float 1e6
  policy: 'MlpPolicy'
  learning_rate: lin_0.0008
  ent_coef: 1e-3

Pendulum-v1:
  <<: *mine
  n_envs: 2
  normalize: "dict(norm_obs=True, norm_reward=False)"
  frame_stack: 2
  gamma: 0.9
  env_wrapper:
    - gymnasium.wrappers.TimeLimit:
        max_episode_steps: 50
    - gymnasium.wrappers.FlattenObservation
  policy_kwargs: "dict(activation_fn=nn.ReLU, net_arch=dict(pi=[16], vf=[8]), optimizer_class=RMSpropTFLike)"
"""


@pytest.fixture(autouse=True)
def keep_the_number_of_threads() -> Any:
    n_threads = th.get_num_threads()
    yield
    th.set_num_threads(n_threads)


def make_spec(algorithm: str, env: str, settings: Settings, timesteps: int = 600, interval: int = 200) -> RunSpec:
    return RunSpec(env, algorithm, 3, timesteps, {"n_envs": 1, "policy": "MlpPolicy", **settings}, interval, 2, 1)


def carried_out(spec: RunSpec, stages: list[Stage] | None = None) -> RunResult:
    return carry_out(spec, Provenance("a machine", "versions", 1), [].append if stages is None else stages.append)


def test_settings_are_rl_zoo3_s(tmp_path: Path) -> None:
    path = tmp_path / "a2c.yml"
    path.write_text(SETTINGS)
    settings = read_settings(path, "Pendulum-v1")
    check_settings(settings, "a2c")
    env = make_env("Pendulum-v1", settings, settings["n_envs"], seed=0)
    model = make_model("a2c", env, settings, seed=0)
    assert isinstance(model, A2C) and isinstance(env, VecFrameStack)
    assert (model.n_envs, model.gamma, model.ent_coef, model.seed, str(model.device)) == (2, 0.9, 1e-3, 0, "cpu")
    assert [model.lr_schedule(progress) for progress in (1.0, 0.5, 0.0)] == pytest.approx([8e-4, 4e-4, 0.0])
    vec_normalize = unwrap_vec_wrapper(env, VecNormalize)
    assert isinstance(vec_normalize, VecNormalize)
    assert (vec_normalize.gamma, vec_normalize.norm_obs, vec_normalize.norm_reward) == (0.9, True, False)
    assert env.observation_space.shape == (6,)
    assert env.get_attr("_max_episode_steps") == [50, 50]
    assert env.get_attr("render_mode") == [None, None]
    assert env.env_is_wrapped(gym.wrappers.FlattenObservation) == [True, True]
    assert [type(layer).__name__ for layer in model.policy.mlp_extractor.policy_net] == ["Linear", "ReLU"]
    assert model.policy.mlp_extractor.value_net[0].out_features == 8
    assert type(model.policy.optimizer).__name__ == "RMSpropTFLike"


def test_settings_of_an_environment_that_is_not_listed(tmp_path: Path) -> None:
    path = tmp_path / "ppo.yml"
    path.write_text(SETTINGS)
    (spec,) = make_specs(Arguments("CartPole-v1", ["ppo"], seeds=1, settings={"ppo": path}, n_envs=3))
    assert spec.timesteps == 1e6 and spec.settings["n_envs"] == 3
    assert "learning_rate" in spec.settings and "normalize" not in spec.settings


@pytest.mark.parametrize("algorithm", ["a3c", "a2c", "ppo"])
def test_without_settings_all_have_the_same_environments(algorithm: str) -> None:
    specs = make_specs(Arguments("CartPole-v1", [algorithm], seeds=1, timesteps=100))
    assert [spec.settings for spec in specs] == [{"n_envs": 8, "policy": "MlpPolicy"}]


class EvaluateInPlace(BaseCallback):
    """Does during training what a comparison does afterwards."""

    def __init__(self, spec: RunSpec) -> None:
        super().__init__()
        self.spec = spec
        self.env = make_env(spec.env, spec.settings, 2, eval_seed(spec.seed), training=False)
        self.returns: list[Any] = []

    def evaluate(self, model: Any) -> None:
        sync_envs_normalization(model.get_env(), self.env)
        self.env.seed(eval_seed(self.spec.seed))
        self.returns.append(evaluate_policy(model, self.env, self.spec.n_eval_episodes, return_episode_rewards=True)[0])

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps in range(self.spec.eval_interval, self.spec.timesteps, self.spec.eval_interval):
            self.evaluate(self.model)

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("algorithm", ["a2c", "a3c"])
def test_evaluations_are_of_the_policy_as_it_was(algorithm: str) -> None:
    """With the parameters and statistics of that moment: an evaluation during training gives the same returns."""
    settings = {"n_envs": 2, "normalize": True, "learning_rate": 0.01}
    settings |= {"n_workers": 1, "engine": "torch"} if algorithm == "a3c" else {}
    spec = make_spec(algorithm, "Pendulum-v1", settings, timesteps=400)
    result = carried_out(spec)
    assert [evaluation.timesteps for evaluation in result.evaluations] == [0, 200, 400]
    assert all(evaluation.lengths == [200] * 2 for evaluation in result.evaluations)

    model = make_model(algorithm, make_env("Pendulum-v1", spec.settings, 2, spec.seed), spec.settings, spec.seed)
    callback = EvaluateInPlace(spec)
    callback.evaluate(model)
    model.learn(400, callback=callback)
    callback.evaluate(model)
    assert [evaluation.returns for evaluation in result.evaluations] == callback.returns
    assert len({tuple(returns) for returns in callback.returns}) == 3


def test_the_clock_does_not_count_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[float] = []

    def slow(*args: Any, **kwargs: Any) -> Any:
        evaluated.append(time.perf_counter())
        time.sleep(0.1)
        return evaluate_policy(*args, **kwargs)

    monkeypatch.setattr(run_module, "evaluate_policy", slow)
    stages: list[Stage] = []
    begun = time.perf_counter()
    result = carried_out(make_spec("a2c", "CartPole-v1", {}), stages)
    seconds = [evaluation.seconds for evaluation in result.evaluations]
    assert len(evaluated) == 4 and result.wall_seconds > 0.4
    assert seconds == sorted(seconds) and seconds[0] == 0.0
    assert seconds[-1] < evaluated[0] - begun  # all of the training was over by then
    assert result.steps_per_second == 600 / seconds[-1]
    assert 0 < result.copying_seconds < seconds[-1]
    assert [stage for stage in stages if stage.name == "is evaluated"] == [Stage("is evaluated", i / 4) for i in range(4)]


@pytest.mark.parametrize("backend", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_steps_are_those_that_workers_have_made(backend: str) -> None:
    """A3C's workers are ahead of what callbacks see, so that ``num_timesteps`` would be too small."""
    settings = {"backend": backend, "n_steps": 4, "policy": "MlpPolicy"}
    seen: list[int] = []

    class Slow(Checkpoints):
        def _on_step(self) -> bool:
            time.sleep(0.005)  # so that workers get ahead
            return super()._on_step()

        def _take(self, model: Any, seconds: float) -> None:
            super()._take(model, seconds)
            seen.append(model.num_timesteps)

    with StepCounts(2) as step_counts:
        env = make_env("CartPole-v1", settings, 2, seed=0, outermost=step_counts.wrap)
        model = make_model("a3c", env, settings, seed=0)
        checkpoints = Slow(160, step_counts, lambda steps: None)
        checkpoints.learn(model, 800)
    assert isinstance(model, A3C) and model.num_timesteps == 800
    made = [checkpoint.timesteps for checkpoint in checkpoints.taken]
    assert seen == [0, 160, 320, 480, 640, 800]
    assert made[0] == 0 and made[-1] == 800
    assert made == sorted(set(made))  # one evaluation per number of steps, also when workers have made all their steps
    assert len(made) < len(seen) and all(steps >= shown for steps, shown in zip(made, seen, strict=False))
    assert made[1] > 320
    for name, tensor in model.policy.state_dict().items():
        assert th.equal(checkpoints.taken[-1].parameters[name], tensor)
        assert tensor.numel() == 0 or checkpoints.taken[0].parameters[name].data_ptr() != tensor.data_ptr()


def test_checkpoints_are_taken_once_per_interval() -> None:
    """Also if a rollout is longer than an interval, or the last checkpoint is at the end."""
    checkpoints = carried_out(make_spec("a2c", "CartPole-v1", {"n_envs": 8}, timesteps=120, interval=4)).evaluations
    assert [evaluation.timesteps for evaluation in checkpoints] == [0, 40, 80, 120]


def test_any_algorithm_with_sb3_s_interface() -> None:
    spec = make_spec("stable_baselines3:DQN", "CartPole-v1", {"learning_starts": 50, "train_freq": [4, "step"]}, timesteps=200)
    assert [evaluation.timesteps for evaluation in carried_out(spec).evaluations] == [0, 200]


def test_step_counts_change_nothing() -> None:
    with StepCounts(2) as step_counts:
        env, counted, other = gym.make("CartPole-v1"), *(step_counts.wrap(gym.make("CartPole-v1")) for _ in range(2))
        counted = pickle.loads(pickle.dumps(counted))  # as into another process
        other.reset()
        assert (env.reset(seed=1)[0] == counted.reset(seed=1)[0]).all()
        for n_steps in range(1, 6):
            assert (env.step(0)[0] == counted.step(0)[0]).all()
            assert step_counts.total() == n_steps
        other.step(0)
        assert step_counts.total() == 6
        path = Path(step_counts._file.name)
    assert not path.exists()
    counted.step(0)
    assert step_counts.total() == 7  # mapped memory outlives its file
