"""A clock that does not go on (tests freeze it, and some systems' clocks are coarse) does no harm."""

import time

import pytest
from stable_baselines3.common.env_util import make_vec_env

from sb3_a3c import A3C
from sb3_a3c.comparison.checkpoints import Checkpoints
from sb3_a3c.comparison.step_counts import StepCounts


@pytest.fixture
def frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: 1.0)
    for name in ("time_ns", "monotonic_ns", "perf_counter_ns"):
        monkeypatch.setattr(time, name, lambda: 1_000_000_000)


@pytest.mark.usefixtures("frozen_clock")
@pytest.mark.parametrize(("n_workers", "backend"), [(1, "thread"), (2, "serial"), (2, "thread")])
def test_learning_while_the_clock_is_frozen(n_workers: int, backend: str) -> None:
    model = A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2), n_workers=n_workers, backend=backend, engine="torch")
    model.learn(100, log_interval=1)
    assert model.num_timesteps == 100
    for name in ("lock_wait_fraction", "main_wait_fraction"):
        assert model.logger.name_to_value[f"async/{name}"] == 0.0


@pytest.mark.usefixtures("frozen_clock")
def test_a_comparison_while_the_clock_is_frozen() -> None:
    """It divides steps by seconds."""
    with StepCounts(1) as counts:
        checkpoints = Checkpoints(50, counts, lambda n_steps: None)
        checkpoints.learn(A3C("MlpPolicy", make_vec_env("CartPole-v1")), 50)
    assert checkpoints.taken[-1].seconds > 0
