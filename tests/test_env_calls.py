"""A call of the environments gets its own answers, whatever happened to the calls before it, and only where it may be made."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from test_healing import Counting, make_model

from sb3_a3c.backends.process.messages import EnvResult, decode
from sb3_a3c.backends.ray.actor import WorkerActor


class Named(Counting):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def slow(self, mark: str) -> str:
        time.sleep(0.5)
        self.mark = mark
        return f"answer of {self.name}"


def make_env(vec_env_class: type[VecEnv]) -> VecEnv:
    return vec_env_class([lambda i=i: Named(f"environment {i}") for i in range(4)])  # type: ignore[call-arg,misc]


@pytest.mark.parametrize("vec_env_class", [DummyVecEnv, SubprocVecEnv])
def test_an_interrupted_call(vec_env_class: type[VecEnv]) -> None:
    """Its answers come later, and are nobody's. It is not made after a later call."""
    env = make_env(vec_env_class)
    seen: list[Any] = []

    def interrupt_a_call(*_: Any) -> bool:
        if not seen:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                env.env_method("slow", "from the call that was interrupted")
            env.set_attr("mark", "last")
            seen.append(env.get_attr("name"))
            seen.append(env.get_attr("mark"))
            seen.append(env.env_method("slow", "x", indices=[3, 0]))
        return True

    make_model(env, n_workers=2).learn(200, callback=interrupt_a_call)
    assert seen[0] == [f"environment {i}" for i in range(4)]
    assert seen[1] == ["last"] * 4
    assert seen[2] == ["answer of environment 3", "answer of environment 0"]
    env.close()


def test_calls_of_another_thread_are_refused() -> None:
    """From before the run to after it: each is made, or refused in words, and none waits for ever."""
    env = make_env(DummyVecEnv)
    outcomes: list[str] = []
    ending = threading.Event()

    def attempt(call: Callable[[], Any]) -> str:
        try:
            call()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "done"

    def call_on() -> None:
        while not ending.is_set():
            outcomes.append(attempt(lambda: env.get_attr("name")))
            time.sleep(0.0005)

    thread = threading.Thread(target=call_on, name="another")
    thread.start()
    make_model(env).learn(200, callback=lambda *_: [time.sleep(0.005), True][1])
    ending.set()
    thread.join()
    refused = (
        "RuntimeError: get_attr() must be called in the thread that learns (in a callback, for instance), but it was called "
        "in another: while A3C learns with backend='process', no other thread reaches the environments"
    )
    assert set(outcomes) == {"done", refused}
    assert attempt(lambda: env.get_attr("name")) == "done"


@pytest.mark.parametrize("backend", ["thread", "process", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_method_that_is_kept_works_after_the_run(backend: str) -> None:
    """And in the next run, where it waits for the steps of that one's workers."""
    env = make_env(DummyVecEnv)
    kept: list[Callable] = []
    seen: list[Any] = []

    def keep(*_: Any) -> bool:
        kept.append(env.get_attr)
        return True

    def use(*_: Any) -> bool:
        seen.append(kept[0]("name"))
        return True

    names = [f"environment {i}" for i in range(4)]
    model = make_model(env)
    model.backend, model.backend_kwargs = backend, None
    model.learn(40, callback=keep)
    assert kept[0]("name") == names
    model.learn(40, callback=use)
    assert seen and all(each == names for each in seen)


def test_a_call_that_an_actor_can_not_unpickle_is_answered() -> None:
    """Its arguments may be of a module that the actor's node does not have."""
    actor = WorkerActor()
    actor._worker = Mock()
    result = decode(actor.call_env(3, b"no message"))
    assert isinstance(result, EnvResult) and result.number == 3 and result.failure is not None
    assert "invalid load key" in str(result.failure.error())
