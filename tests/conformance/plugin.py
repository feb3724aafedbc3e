"""
A pytest plugin that puts A3C in the place of A2C or RecurrentPPO before the tests are imported, and keeps the tests that then
use it.
"""

import inspect
import os
from typing import Any, Self

import pytest
import sb3_contrib
import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_a3c import A3C


class InA2CsPlace(A3C):
    """A3C, but for the name that it gives to its folder of logs, which is all that a test knows A2C by."""

    def learn(self, *args: Any, **kwargs: Any) -> Self:
        return super().learn(*args, **{"tb_log_name": "A2C", **kwargs})


class OneWorker(InA2CsPlace):
    """A3C with one worker on the torch engine, which is A2C."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"n_workers": 1, "engine": "torch", **kwargs})


class InRecurrentPPOsPlace(A3C):
    """A3C, but for arguments that only PPO has."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{name: value for name, value in kwargs.items() if name not in _PPOS})


_PPOS = ("batch_size", "n_epochs", "clip_range", "clip_range_vf")
STAND_IN = {"one": OneWorker, "default": InA2CsPlace, "recurrent": InRecurrentPPOsPlace}[os.environ["A3C_STAND_IN"]]
if STAND_IN is InRecurrentPPOsPlace:
    ALGORITHM = "RecurrentPPO"
    sb3_contrib.RecurrentPPO = STAND_IN  # type: ignore[misc,assignment]
else:
    ALGORITHM = "A2C"
    stable_baselines3.A2C = stable_baselines3.a2c.A2C = STAND_IN  # type: ignore[misc,assignment,attr-defined]

#: Tests that A3C's defaults can't pass, and why. One worker on the torch engine passes all of SB3's.
EXCLUDED = {
    "test_callbacks.py::test_callbacks[InA2CsPlace]": "it expects a single environment of 'Pendulum-v1', and one step a call",
    "test_dict_env.py::test_consistency[InA2CsPlace]": "it compares a policy that torch computes with one of the fused "
    "engine, and each draws noise of its own",
    "test_deterministic.py::test_deterministic_training_common[InA2CsPlace]": "threads don't repeat; one worker and the "
    "serial backend do",
    "test_deterministic.py::test_deterministic_training_common[InRecurrentPPOsPlace]": "threads don't repeat",
    "test_lstm.py::test_ppo_lstm_performance": "its settings are PPO's. The docs' page on recurrent policies has A3C's",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what does not use the algorithm, and what is excluded."""
    chosen, others = [], []
    for item in items:
        excluded = STAND_IN is not OneWorker and item.nodeid.split("/")[-1] in EXCLUDED
        (chosen if _uses_algorithm(item) and not excluded else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = chosen


def pytest_report_header(config: pytest.Config) -> str:
    excluded = "" if STAND_IN is OneWorker else "".join(f"\nexcluded: {name}: {reason}" for name, reason in EXCLUDED.items())
    return f"{ALGORITHM} is {STAND_IN.__name__}{excluded}"


def _uses_algorithm(item: pytest.Item) -> bool:
    """Whether a test has the algorithm as a parameter or, if it has none at all, names it in its source or its fixtures'."""
    assert isinstance(item, pytest.Function)
    params = list(item.callspec.params.values()) if hasattr(item, "callspec") else []
    algorithms = [value for value in params if isinstance(value, type) and issubclass(value, BaseAlgorithm)]
    if algorithms:
        return STAND_IN in algorithms
    fixtures = [
        definition.func for name in item.fixturenames for definition in item._fixtureinfo.name2fixturedefs.get(name, ())
    ]
    sources = [inspect.getsource(func) for func in (item.function, *fixtures) if func.__module__ == item.function.__module__]
    return any(isinstance(value, str) and value == "a2c" for value in params) or any(ALGORITHM in source for source in sources)
