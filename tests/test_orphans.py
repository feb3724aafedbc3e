"""A program that dies, however it dies, takes its workers with it, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

SHARED_MEMORY = Path("/dev/shm")  # semaphores are there, too
#: One worker is in a step that never ends and holds the GIL, one in a step that never ends and does not, others wait for the
#: main process, which is in a callback.
SCRIPT = """
import ctypes, os, sys, time
import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv
from sb3_a3c import A3C

class Env(gym.Wrapper):
    n_steps, halt = 0, ""

    def step(self, action):
        self.n_steps += 1
        if self.n_steps == 40 and self.halt:
            time.sleep(0.1)  # longer than rollouts are gathered for, so they are sent
        if self.n_steps == 50 and self.halt:
            os.write(1, b"in a step\\n")
            ctypes.PyDLL(None).sleep(1000) if self.halt == "holding the GIL" else time.sleep(1000)
        return super().step(action)

    def __setstate__(self, state):
        self.__dict__.update(state)
        if START == "slow" and os.getpid() != state["made_in"]:
            time.sleep(1000)

    def __getstate__(self):
        return {{**self.__dict__, "made_in": os.getpid()}}

def end(locals_, _):
    if model.num_timesteps == 80:
        os.write(1, b"in a callback\\n")  # in one piece, as print is not without a buffer
        sys.stdin.readline()
        {ending}
    return True

START = {start!r}
if __name__ == "__main__":
    env = DummyVecEnv([lambda: Env(gym.make("CartPole-v1"))] * 4)
    options = dict(start_method={start_method!r})
    env.envs[0].halt, env.envs[1].halt = "holding the GIL", "sleeping"
    model = A3C("MlpPolicy", env, backend="process", backend_kwargs=options, max_lead=100)
    print("starting", flush=True)
    model.learn(10_000, callback=end, log_interval=None)
"""
ENDINGS = {
    "killed": "time.sleep(1000)",
    "terminated": "time.sleep(1000)",
    "os._exit": "os._exit(3)",
    "aborted": "ctypes.CDLL(None).abort()",
}
SIGNALS = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM}


@pytest.fixture
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(**request.param))
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, str(script)], stdin=pipe, stdout=pipe, stderr=null, text=True)
    yield process
    process.kill()
    process.communicate()


def wait_for(process: subprocess.Popen, *lines: str) -> None:
    """Wait until all of them have been read, in any order."""
    assert process.stdout is not None
    left = Counter(lines)
    while +left:
        read = process.stdout.readline().strip()
        assert read, "it has ended before"
        left[read] -= 1


def family_of(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def is_alive(process: psutil.Process) -> bool:
    """One that has ended stays in the system's table as long as its new parent likes."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_nothing_is_left(family: list[psutil.Process], before: set[str]) -> None:
    deadline = time.monotonic() + 300  # a step takes 1000 s
    while (orphans := [process for process in family if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    for orphan in orphans:  # it would keep the pipes to this test open
        orphan.kill()
    assert not orphans
    left = set(os.listdir(SHARED_MEMORY)) - before
    while left and time.monotonic() < deadline:  # other tests at the same time may own some of them for a while
        time.sleep(0.01)
        left &= set(os.listdir(SHARED_MEMORY))
    assert not left


CASES = [("forkserver", ending) for ending in ENDINGS] + [("spawn", "killed"), ("fork", "killed")]
QUICK = [("forkserver", "killed"), ("fork", "killed")]


@pytest.mark.parametrize(
    ("program", "ending"),
    [
        pytest.param(
            dict(start_method=method, ending=ENDINGS[ending], start=""),
            ending,
            id=f"{method}-{ending}",
            marks=[] if (method, ending) in QUICK else [pytest.mark.slow],
        )
        for method, ending in CASES
    ],
    indirect=["program"],
)
def test_in_the_middle_of_steps(program: subprocess.Popen, ending: str) -> None:
    before = set(os.listdir(SHARED_MEMORY))
    wait_for(program, "starting")
    wait_for(program, "in a callback", "in a step", "in a step")
    family = family_of(program)
    assert len(family) >= 4
    if ending in SIGNALS:
        program.send_signal(SIGNALS[ending])
    else:
        assert program.stdin is not None
        print("now", file=program.stdin, flush=True)
    program.wait(timeout=600)
    assert_nothing_is_left(family, before)


@pytest.mark.parametrize("seconds", [0.3, *(pytest.param(seconds, marks=pytest.mark.slow) for seconds in (0.0, 1.0, 3.0))])
@pytest.mark.parametrize("program", [dict(start_method="forkserver", ending="pass", start="slow")], indirect=True)
def test_while_workers_start(program: subprocess.Popen, seconds: float) -> None:
    before = set(os.listdir(SHARED_MEMORY))
    wait_for(program, "starting")
    time.sleep(seconds)
    family = family_of(program)
    program.kill()
    program.wait()
    assert_nothing_is_left(family, before)
