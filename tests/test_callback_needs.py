"""Workers assemble only what callbacks read, and callbacks read what they need."""

from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize

from sb3_a3c import A3C, register_callback
from sb3_a3c.backends import BACKENDS
from sb3_a3c.worker.callback_needs import CallbackNeeds, looks_within, needs_of


class Own(BaseCallback):
    """A user's callback, of which nothing is known."""

    def _on_step(self) -> bool:
        return True


class OwnEvalCallback(EvalCallback):
    """A user's subclass."""


class OwnConvertCallback(ConvertCallback):
    """A user's subclass."""


def evaluation(*inside: BaseCallback, kind: type[EvalCallback] = EvalCallback, **kwargs: Any) -> EvalCallback:
    return kind(make_vec_env("CartPole-v1"), *inside, verbose=0, **kwargs)


CHECKPOINT = CheckpointCallback(10, "nowhere")
CASES: list[tuple[BaseCallback, CallbackNeeds]] = [
    (ConvertCallback(None), CallbackNeeds.COUNT),
    (ProgressBarCallback(), CallbackNeeds.COUNT),
    (CallbackList([ProgressBarCallback(), ConvertCallback(None)]), CallbackNeeds.COUNT),
    (EveryNTimesteps(10, ProgressBarCallback()), CallbackNeeds.COUNT),
    (CHECKPOINT, CallbackNeeds.MODEL),
    (LogEveryNTimesteps(10), CallbackNeeds.MODEL),
    (evaluation(StopTrainingOnRewardThreshold(1.0), StopTrainingOnNoModelImprovement(3)), CallbackNeeds.MODEL),
    (EveryNTimesteps(10, CHECKPOINT), CallbackNeeds.MODEL),
    (CallbackList([ProgressBarCallback(), CHECKPOINT, evaluation()]), CallbackNeeds.MODEL),
    (ConvertCallback(lambda locals_, globals_: True), CallbackNeeds.STEPS),
    (StopTrainingOnMaxEpisodes(3), CallbackNeeds.STEPS),
    (Own(), CallbackNeeds.STEPS),
    (OwnConvertCallback(None), CallbackNeeds.STEPS),
    (evaluation(kind=OwnEvalCallback), CallbackNeeds.STEPS),
    (evaluation(Own()), CallbackNeeds.STEPS),
    (EveryNTimesteps(10, CallbackList([CHECKPOINT, Own()])), CallbackNeeds.STEPS),
]


@pytest.mark.parametrize(("callback", "needs"), CASES, ids=lambda value: getattr(value, "name", type(value).__name__))
def test_needs_of_a_callback(callback: BaseCallback, needs: CallbackNeeds) -> None:
    assert needs_of(callback) == needs
    child = EveryNTimesteps(10, callback)  # becomes the callback's parent, which is not inside of it
    assert needs_of(callback) == needs == needs_of(child)


def test_callbacks_that_hold_each_other() -> None:
    one, other = evaluation(), evaluation()
    one.callback, other.callback = other, one
    assert needs_of(CallbackList([one])) == CallbackNeeds.MODEL


@pytest.mark.parametrize("freq", [1, 3, 7])
@pytest.mark.parametrize("n_steps", [1, 5])
@pytest.mark.parametrize("kind", ["evaluation", "checkpoint", "timesteps", "list"])
def test_when_a_callback_reads(kind: str, n_steps: int, freq: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """In exactly the rollouts in which it does something."""
    acted: list[int] = []
    monkeypatch.setattr(CheckpointCallback, "_checkpoint_path", lambda self, **_: acted.append(1) or str(tmp_path / "x"))
    monkeypatch.setattr("stable_baselines3.common.callbacks.evaluate_policy", lambda *_, **__: acted.append(1) or ([1], [1]))
    callback: BaseCallback = {
        "evaluation": evaluation(eval_freq=freq),
        "checkpoint": CheckpointCallback(freq, str(tmp_path)),
        "timesteps": EveryNTimesteps(4 * freq, CheckpointCallback(1, str(tmp_path))),
        "list": CallbackList([CheckpointCallback(freq, str(tmp_path)), EveryNTimesteps(4 * freq, evaluation(eval_freq=1))]),
    }[kind]
    model = A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=4))
    model.set_logger(Logger(None, []))
    callback.init_callback(model)
    for _ in range(20):
        expected = looks_within(callback, n_steps)
        acted.clear()
        for _ in range(n_steps):
            model.num_timesteps += 4
            callback.on_step()
        assert bool(acted) == expected


@pytest.mark.parametrize("n_workers", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_only_what_is_read_is_assembled(backend: str, n_workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EvalCallback is called at each step. When it evaluates, the VecEnv is at that step."""
    calls: list[int] = []
    n_samples: dict[int, float] = {}
    on_step = EvalCallback._on_step

    def look(self: EvalCallback) -> bool:
        assert "infos" not in self.locals
        calls.append(self.num_timesteps)
        n_samples[self.num_timesteps] = self.model.get_vec_normalize_env().obs_rms.count  # type: ignore[union-attr]
        return on_step(self)

    monkeypatch.setattr(EvalCallback, "_on_step", look)
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=4))
    model = A3C("MlpPolicy", env, n_steps=5, n_workers=n_workers, backend=backend)
    eval_env = VecNormalize(make_vec_env("CartPole-v1"), training=False)
    callback = EvalCallback(eval_env, eval_freq=23, n_eval_episodes=1, verbose=0)
    model.learn(600, callback=callback)
    assert calls == list(range(4, 604, 4))
    begin = min(n_samples.values())  # the VecEnv is not updated before the first rollout that is read
    assert n_samples[4] == n_samples[80] == begin
    at_evaluations = [n_samples[timesteps] for timesteps in (92, 184, 276)]
    assert at_evaluations == sorted(at_evaluations) and begin < at_evaluations[0]
    if n_workers == 1:  # then no worker is ahead of the VecEnv
        assert at_evaluations == [pytest.approx(4 + 4 * n_calls, abs=1e-3) for n_calls in (23, 46, 69)]
    assert env.obs_rms.count == pytest.approx(4 + 600, abs=1e-3)
    assert model.ep_info_buffer


class Peeker(Own):
    """Records when it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[int] = []
        self.ended: list[int] = []

    def _on_rollout_start(self) -> None:
        self.begun.append(self.num_timesteps)

    def _on_rollout_end(self) -> None:
        self.ended.append(self.num_timesteps)


def test_own_callbacks_can_be_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    model = A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=4), n_steps=5)
    asked: list[int] = []

    def looks(callback: Peeker, n_steps: int) -> bool:
        asked.append(n_steps)
        return callback.num_timesteps == 40

    monkeypatch.setattr("sb3_a3c.worker.callback_needs._DECLARATIONS", {})
    for declare, expected in ((looks, [40]), (None, [0, 20, 40, 60, 80])):
        register_callback(Peeker, *filter(None, [declare]))
        peeker = Peeker()
        model.learn(100, callback=peeker)
        assert peeker.begun == expected and peeker.ended == [timesteps + 20 for timesteps in expected]
        assert "infos" not in peeker.locals and peeker.n_calls == 25
    assert set(asked) == {5}


class StopsAtThird(Own):
    def _on_step(self) -> bool:
        return self.n_calls < 3


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("n_workers", [1, 2])
def test_episodes_that_end_after_a_stop_are_not_counted(n_workers: int, looks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_a3c.worker.callback_needs._DECLARATIONS", {})
    register_callback(StopsAtThird, lambda callback, n_steps: looks)
    env = make_vec_env(lambda: gym.make("CartPole-v1", max_episode_steps=2), n_envs=2)
    model = A3C("MlpPolicy", env, n_steps=50, n_workers=n_workers, backend="serial").learn(100, callback=StopsAtThird())
    assert model.num_timesteps == 6 and model.ep_info_buffer is not None
    assert [episode["l"] for episode in model.ep_info_buffer] == [2, 2]


def test_bad_declarations() -> None:
    with pytest.raises(TypeError, match=r"callback_class must be a subclass of BaseCallback, not <.*Own object"):
        register_callback(Own())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="looks must be a function of a callback and a number of steps, not 3"):
        register_callback(Own, 3)  # type: ignore[arg-type]
