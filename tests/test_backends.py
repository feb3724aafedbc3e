"""Backends are an open registry: a user's own is used like ours, and what a backend's flags say is so."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_a3c import A3C, register_backend
from sb3_a3c.backends import BACKENDS, Backend, Option, RunSpec, make_workers
from sb3_a3c.worker.rollout import Rollout


class ShuffledBackend(Backend):
    """Workers in turn, in the caller's thread, in a random order."""

    is_repeatable = True
    options = {"order_seed": Option("a whole number", lambda value: type(value) is int)}
    prepared: list[Any] = []

    def __init__(self, run: RunSpec, order_seed: int = 0) -> None:
        self.workers = make_workers(run.specs, run.parameters)
        self.generator = np.random.default_rng(order_seed)
        self.orders: list[list[int]] = []

    @classmethod
    def prepare(cls, options: dict[str, Any] | None) -> None:
        cls.prepared.append(options)

    def collect(self) -> list[Rollout]:
        order = self.generator.permutation(len(self.workers)).tolist()
        rollouts = {index: self.workers[index].step() for index in order}
        return [rollouts[index] for index in sorted(rollouts)]

    def __exit__(self, *exc_info: object) -> None: ...


class Incomplete(Backend):
    def __exit__(self, *exc_info: object) -> None: ...


@pytest.fixture
def shuffled() -> Iterator[str]:
    register_backend("shuffled", ShuffledBackend)
    yield "shuffled"
    del BACKENDS["shuffled"]


def learn(backend: str, n_workers: int | None = None, **backend_kwargs: Any) -> A3C:
    env = make_vec_env("CartPole-v1", n_envs=3, seed=1)
    model = A3C("MlpPolicy", env, n_workers=n_workers, backend=backend, backend_kwargs=backend_kwargs or None, seed=1)
    return model.learn(300, callback=lambda locals_, _: len(env.get_attr("spec")) == 3)


def parameters(model: A3C) -> th.Tensor:
    return th.cat([param.flatten() for param in model.policy.parameters()])


def test_a_backend_of_ones_own(shuffled: str) -> None:
    first, again, other = (learn(shuffled, order_seed=seed) for seed in (1, 1, 2))
    assert first.num_timesteps == 300 and ShuffledBackend.prepared[0] == {"order_seed": 1}
    assert th.equal(parameters(first), parameters(again))
    assert not th.equal(parameters(first), parameters(other))
    with pytest.raises(ValueError, match=re.escape("backend_kwargs['order_seed'] must be a whole number, but it is 'x'")):
        learn(shuffled, order_seed="x")
    assert learn(shuffled, n_workers=1).num_timesteps == 300  # in the caller's thread, whatever the backend


@pytest.mark.parametrize("backend", [name for name, backend_class in BACKENDS.items() if backend_class.is_repeatable])
def test_a_backend_that_is_repeatable_repeats(backend: str) -> None:
    assert th.equal(*(parameters(learn(backend)) for _ in range(2)))


def test_a_class_is_registered_again_and_a_name_is_not_taken_away(shuffled: str) -> None:
    """As when the cell of a notebook is run twice."""
    register_backend(shuffled, type("ShuffledBackend", (ShuffledBackend,), {"__module__": __name__}))
    for name in ("process", shuffled):
        with pytest.raises(ValueError, match=rf"name must not be that of another backend, but '{name}' is .*\.\w+Backend"):
            register_backend(name, type("Another", (ShuffledBackend,), {}))


@pytest.mark.parametrize(
    ("name", "backend_class", "message"),
    [
        (3, ShuffledBackend, "name must be a string, not 3"),
        ("own", dict, "backend_class must be a subclass of sb3_a3c.backends.Backend, not <class 'dict'>"),
        ("own", "serial", "backend_class must be a subclass of sb3_a3c.backends.Backend, not 'serial'"),
        ("own", Incomplete, "backend_class must define all methods of a backend, but Incomplete lacks collect"),
    ],
)
def test_what_can_not_be_registered(name: Any, backend_class: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        register_backend(name, backend_class)
    assert "own" not in BACKENDS
