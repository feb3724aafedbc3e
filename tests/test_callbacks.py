"""The callbacks for people who look, with A3C and with another algorithm."""

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import Env, spaces
from matplotlib.image import imread
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_a3c import A3C
from sb3_a3c.callbacks import MovingAverageCallback, StalenessCallback, WorkerReturnsCallback

EPISODE = 10


class Paying(Env):
    """Pays the same at each step; its first episode is shorter than others."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, pay: float) -> None:
        self.pay, self.n_steps = pay, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.n_steps += 1
        return np.zeros(2, np.float32), self.pay, (self.n_steps + 3) % EPISODE == 0, False, {}


def make_model(algorithm: type[OnPolicyAlgorithm] = A3C, **kwargs: Any) -> OnPolicyAlgorithm:
    env = DummyVecEnv([partial(lambda pay: Monitor(Paying(pay)), pay) for pay in (1.0, 2.0, 3.0, 4.0)])
    return algorithm("MlpPolicy", env, device="cpu", **kwargs)  # type: ignore[arg-type]


WAYS = [
    pytest.param(dict(algorithm=A3C, n_workers=2, backend=backend, rollout_order=order), id=f"{backend} {order}")
    for backend in ("serial", "thread", "process")
    for order in ("env", "arrival")
]
A2CS = pytest.param(dict(algorithm=A2C), id="A2C")


#: The quick ones of WAYS and A2CS.
_QUICK = ("thread arrival", "process env", "A2C")


@pytest.mark.parametrize(
    "way",
    [pytest.param(*way.values, id=way.id, marks=[] if way.id in _QUICK else [pytest.mark.slow]) for way in (*WAYS, A2CS)],
)
def test_moving_average(way: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "new" / "picture.png"
    seen: list[float] = []
    drawn_early: list[bool] = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            seen.extend(info["episode"]["r"] for info in self.locals["infos"] if "episode" in info)
            drawn_early.append(path.exists())
            return True

    model, moving = make_model(**way), MovingAverageCallback(path, smoothing=0.75, seconds=0.01, verbose=1)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(800, [moving, Look()], log_interval=40)
    averages = seen[:1]
    for episode_return in seen[1:]:
        averages.append(0.75 * averages[-1] + 0.25 * episode_return)
    assert moving.returns == seen and len(seen) >= 70
    assert moving.averages == averages
    model.logger.close()
    logged = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True)
    assert logged["rolloutmoving_average"] == pytest.approx(averages[-1])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(seen) and lines[0].startswith("episode 1, worker ")
    assert not drawn_early[0] and any(drawn_early)
    assert imread(path).std() > 0  # not a blank sheet


def test_a_moving_average_needs_episodes(tmp_path: Path) -> None:
    model = A3C("MlpPolicy", DummyVecEnv([partial(gym.make, "Pendulum-v1")]))
    with pytest.warns(UserWarning, match="no episode has ended, or the environments have no Monitor"):
        model.learn(10, MovingAverageCallback(tmp_path / "picture.svg"))
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("way", [*WAYS, A2CS])
def test_worker_returns(way: dict[str, Any], tmp_path: Path) -> None:
    """In the order of arrival one worker may make many rollouts before the other makes its first, so there is no fixed end."""
    pays = [{1.0, 2.0}, {3.0, 4.0}] if way["algorithm"] is A3C else [{1.0, 2.0, 3.0, 4.0}]
    model, returns = make_model(**way), WorkerReturnsCallback(window_size=6)
    at_rollout_end: dict[int, list[float]] = {}

    class UntilAllForgetTheFirst(BaseCallback):
        def _on_step(self) -> bool:
            whole = [len(of_worker) == 6 and not np.mod(of_worker, EPISODE).any() for of_worker in at_rollout_end.values()]
            return len(whole) < len(pays) or not all(whole)

        def _on_rollout_end(self) -> None:
            at_rollout_end.update({worker: list(of_worker) for worker, of_worker in returns.returns.items()})

    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(10_000_000, [returns, UntilAllForgetTheFirst()], log_interval=1)
    model.logger.close()
    logged = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True)[-1]
    assert sorted(returns.returns) == list(range(len(pays)))
    for worker, of_worker in enumerate(pays):
        last = at_rollout_end[worker]
        assert len(last) == 6 and set(last) == {EPISODE * pay for pay in of_worker}
        assert logged[f"worker_{worker}ep_rew_mean"] == pytest.approx(sum(last) / 6)


@pytest.mark.parametrize("way", [*WAYS, A2CS])
def test_staleness(way: dict[str, Any], tmp_path: Path) -> None:
    model, staleness = make_model(**way), StalenessCallback(window_size=50)
    model.set_logger(configure(str(tmp_path), ["tensorboard", "csv", "stdout", "json"]))
    model.learn(1_200, staleness, log_interval=60)
    model.logger.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    [histogram] = events.Histograms("async/staleness")
    values = list(staleness.staleness)
    assert len(values) == 50
    assert histogram.histogram_value.num == 50
    assert histogram.histogram_value.sum == sum(values) and histogram.histogram_value.max == max(values)
    assert "staleness" not in (tmp_path / "progress.csv").read_text().replace("staleness_m", "")
    if way["algorithm"] is A2C:
        assert values == [0] * 50
    elif way["backend"] == "serial":
        assert set(values) == {0}  # in turn: nobody pushes in between


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MovingAverageCallback(smoothing=1.0), "smoothing must be at least 0 and below 1, but it is 1.0"),
        (lambda: MovingAverageCallback(seconds=0.0), "seconds must be None or above 0, but it is 0.0"),
        (lambda: WorkerReturnsCallback(0), "window_size must be at least 1, but it is 0"),
        (lambda: StalenessCallback(0), "window_size must be at least 1, but it is 0"),
    ],
)
def test_bad_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
