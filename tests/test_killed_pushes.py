"""A process that is killed at any point of a push leaves the shared parameters as before the push, or as after it."""

import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from sb3_a3c.envs.normalization import JournaledMeanStd
from sb3_a3c.parameters import flat_optimizer
from sb3_a3c.parameters.layout import Layout
from sb3_a3c.parameters.protocol import Push
from sb3_a3c.parameters.shared import SharedParameters

#: Optimizers, and whether compiled code steps them: with one or two statistics, and with numbers other than a count.
KINDS = [(th.optim.RMSprop, True), (RMSpropTFLike, False), (th.optim.Adam, True), (th.optim.NAdam, False)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A forked process does not have torch's other threads."""
    n_threads = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(n_threads)


def make_parameters(optimizer_class: type[th.optim.Optimizer], compiled: bool, **kwargs: Any) -> SharedParameters:
    """Parameters in shared memory, with two learning rates, a buffer and normalization statistics."""
    th.manual_seed(0)
    policy = ActorCriticPolicy(
        spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)), lambda _: 1e-3, net_arch=[64, 64], optimizer_class=optimizer_class
    )
    policy.register_buffer("version", th.zeros(3))
    layout = Layout(policy, separate_critic=True)
    parameters = SharedParameters(policy, layout, [RunningMeanStd(shape=(3,))], compiled=compiled, **kwargs)
    parameters.share_memory()
    return parameters


def push(parameters: SharedParameters) -> None:
    """A push that depends only on the version, so that equal versions are equal parameters."""
    version = parameters.n_updates
    gradient = th.linspace(-1, 1, parameters.layout.size).roll(version)
    rms = JournaledMeanStd(RunningMeanStd(shape=(3,)))
    rms.update(np.full((4, 3), version, np.float32))
    parameters.push(gradient, Push((1e-3, 3e-3), 5, [th.full((3,), float(version + 1))], [rms.take_journal()]))


def state(parameters: SharedParameters) -> list[th.Tensor]:
    """Everything that a push changes."""
    place = parameters._place()
    memories = [*place.state.memories(), *place.statistics, place.counts]
    return [tensor.clone() for tensor in (*(memory.tensor for memory in memories), *place.buffers)]


def assert_equal(actual: list[th.Tensor], expected: list[th.Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert th.equal(one, other)


def in_a_child(work: Callable[[], None]) -> int:
    """Do something in a forked process. Returns the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_line(n_lines: int) -> None:
    """Kill this process after it has run this many lines of the package."""
    left = itertools.count(n_lines, -1)

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if "sb3_a3c" not in frame.f_code.co_filename:
            return None
        if event == "line" and next(left) == 0:
            kill_me()
        return trace

    sys.settrace(trace)


@pytest.mark.parametrize(
    ("optimizer_class", "compiled"), [KINDS[0], *(pytest.param(*kind, marks=pytest.mark.slow) for kind in KINDS[1:])]
)
def test_before_each_line_of_a_push(optimizer_class: type[th.optim.Optimizer], compiled: bool) -> None:
    parameters, twin = (make_parameters(optimizer_class, compiled) for _ in range(2))
    for each in (parameters, twin):
        push(each)
    n_before = n_after = 0
    for n_lines in itertools.count():
        old = state(twin)
        push(twin)

        def push_and_die(n_lines: int = n_lines) -> None:
            kill_at_line(n_lines)
            push(parameters)
            sys.settrace(None)

        killed = in_a_child(push_and_die) == signal.SIGKILL
        done = parameters.n_updates == twin.n_updates
        n_before, n_after = n_before + (killed and not done), n_after + (killed and done)
        assert_equal(state(parameters), state(twin) if done else old)
        if not done:
            push(parameters)  # neither what the killed push has written nor its lock matters
        assert_equal(state(parameters), state(twin))
        if not killed:
            break
    assert n_before > 40 and n_after > 2


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize(("optimizer_class", "compiled"), KINDS)
def test_in_the_middle_of_the_vector(optimizer_class: type[th.optim.Optimizer], compiled: bool, part: int) -> None:
    """In the middle of the actor's parameters, and of the critic's."""
    parameters, twin = (make_parameters(optimizer_class, compiled) for _ in range(2))
    calls = itertools.count()

    def half_of(value: Any) -> Any:
        return value[: len(value) // 2] if isinstance(value, np.ndarray | th.Tensor) and value.ndim else value

    def step_half(optimizer: th.optim.Optimizer) -> None:
        if next(calls) < part:
            step(optimizer)
            return
        (group,) = optimizer.param_groups
        (param,) = group["params"]
        half = half_of(param)
        half.grad = half_of(param.grad)
        optimizer.state[half] = {name: half_of(value) for name, value in optimizer.state[param].items()}
        group["params"] = [half]
        step(optimizer)
        kill_me()

    def half_kernel(*arguments: Any) -> None:
        if next(calls) < part:
            kernel(*arguments)
            return
        kernel(*map(half_of, arguments))
        kill_me()

    step, (kernel, *others) = flat_optimizer.bare_step, flat_optimizer.OPTIMIZERS.get(optimizer_class, (step_half,))

    def push_half() -> None:
        flat_optimizer.bare_step = step_half  # type: ignore[assignment]
        flat_optimizer.OPTIMIZERS[optimizer_class] = (half_kernel, *others)  # type: ignore[assignment]
        push(parameters)

    for each in (parameters, twin):
        push(each)
    old, new = parameters._old_and_new()
    untouched = new.state.vectors[0].tensor.clone()
    assert in_a_child(push_half) == signal.SIGKILL
    assert parameters._old_and_new() == (old, new)
    assert not th.equal(untouched, new.state.vectors[0].tensor)  # the push has begun to write, but not the current place
    for _ in range(3):
        assert_equal(state(parameters), state(twin))
        for each in (parameters, twin):
            push(each)


@pytest.mark.slow
def test_at_any_time() -> None:
    parameters, twin = (make_parameters(th.optim.RMSprop, True) for _ in range(2))
    rng = random.Random(0)

    def push_forever() -> None:
        while True:
            push(parameters)

    for _ in range(100):
        child = os.fork()
        if child == 0:
            push_forever()
        n_updates = parameters.n_updates
        while parameters.n_updates == n_updates:
            time.sleep(1e-4)
        time.sleep(rng.uniform(0, 1e-3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while twin.n_updates < parameters.n_updates:
            push(twin)
        assert_equal(state(parameters), state(twin))
    assert parameters.n_updates > 100


def test_while_a_callback_sets_parameters() -> None:
    """A user's Ctrl-C may interrupt this."""
    parameters = make_parameters(th.optim.RMSprop, False)
    push(parameters)
    old, count = state(parameters), parameters.moments[0][-1]
    policy = ActorCriticPolicy(
        spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)), lambda _: 1e-3, net_arch=[64, 64], optimizer_class=th.optim.RMSprop
    )
    policy.register_buffer("version", th.full((3,), 7.0))
    seen, seen_buffers = parameters.vector.clone(), [th.zeros(3)]

    def interrupt(place: Any) -> None:
        raise KeyboardInterrupt

    set_current, parameters._set_current = parameters._set_current, interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        parameters.write(policy, seen, seen_buffers, True)
    assert_equal(state(parameters), old)
    parameters._set_current = set_current  # type: ignore[method-assign]
    parameters.write(policy, seen, seen_buffers, True)
    assert th.equal(parameters.vector, parameters.layout.gather(policy))
    assert parameters.n_updates == 1 and parameters.moments[0][-1] == count


@pytest.mark.parametrize("compiled", [True, False])
def test_hogwild_counts_all_the_same(compiled: bool) -> None:
    """Hogwild steps in one place without a lock, so half of an update may stay. Its counters are exact."""
    parameters = make_parameters(th.optim.RMSprop, compiled, use_locking=False)
    push(parameters)

    def push_half() -> None:
        parameters.optimizer.step = lambda *_: kill_me()  # type: ignore[method-assign]
        push(parameters)

    assert in_a_child(push_half) == signal.SIGKILL
    assert parameters.n_updates == 2 and parameters.num_timesteps == 10
    assert parameters.moments[0][-1] == pytest.approx(8 + 1e-4, abs=1e-9)
