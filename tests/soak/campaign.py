"""
One run of the fault campaign: a seed decides what kind of run it is, what goes wrong in it, and when. Afterwards everything
is checked that must hold after any run.
"""

import gc
import io
import multiprocessing
import os
import random
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from sb3_a3c import A3C, NonFiniteError, WorkerDied, record, replay
from sb3_a3c.envs.normalization import running_statistics

#: Each with how often it is drawn, for processes take longer; spawned ones import all anew.
BACKENDS = {"serial": 8, "thread": 8, "forkserver": 4, "fork": 4, "spawn": 1}
FAULTS = ["none", "error", "not a number", "callback", "interrupt", "stop", "exit", "killed", "killed too often"]
OF_PROCESSES = {"killed", "killed too often"}


class Fault(Exception):
    """What environments and callbacks of the campaign raise."""


@dataclass(frozen=True)
class Plan:
    """What kind of run it is."""

    seed: int
    backend: str
    engine: str
    fault: str
    n_envs: int
    n_workers: int
    n_steps: int
    n_rollouts: int
    discrete: bool
    normalize: bool
    subprocesses: bool
    watched: bool
    rollout_order: str
    use_locking: bool
    max_lead: int
    when: float

    @classmethod
    def of(cls, seed: int) -> "Plan":
        """The one that a seed stands for."""
        rng = random.Random(seed)
        [backend] = rng.choices(list(BACKENDS), list(BACKENDS.values()))
        n_envs = rng.randint(1, 5)
        n_workers = rng.randint(1, n_envs)
        in_processes = n_workers > 1 and backend not in ("serial", "thread")
        return cls(
            seed=seed,
            backend=backend,
            engine=rng.choice(["torch", "fused"]),
            fault=rng.choice([fault for fault in FAULTS if in_processes or fault not in OF_PROCESSES]),
            n_envs=n_envs,
            n_workers=n_workers,
            n_steps=rng.choice([1, 2, 5, 16]),
            n_rollouts=rng.choice([3, 10, 40]),
            discrete=rng.random() < 0.5,
            normalize=rng.random() < 0.4,
            subprocesses=rng.random() < 0.1,
            watched=rng.random() < 0.6,
            rollout_order=rng.choice(["env", "arrival"]),
            use_locking=rng.random() < 0.8,
            max_lead=rng.choice([0, 1, 64]),
            when=rng.random(),
        )

    @property
    def n_timesteps(self) -> int:
        """How many steps the run has, if it comes to its end."""
        return self.n_rollouts * self.n_steps * self.n_envs

    def make_model(self) -> A3C:
        """A model that is to learn so."""
        kind = SubprocVecEnv if self.subprocesses else DummyVecEnv
        fails_at = 1 + int(self.when * (self.n_rollouts * self.n_steps - 1))
        faults = [self.fault if index == self.seed % self.n_envs else "none" for index in range(self.n_envs)]
        env: VecEnv = kind([partial(Counting, self.discrete, fault, fails_at) for fault in faults])
        env.seed(self.seed)
        env = VecNormalize(env) if self.normalize else env
        is_process = self.backend not in ("serial", "thread")
        options = dict(start_method=self.backend, max_restarts=2 if self.fault == "killed too often" else 1000)
        return A3C(
            "MlpPolicy",
            env,
            n_steps=self.n_steps,
            policy_kwargs=dict(net_arch=[8]),
            seed=self.seed,
            n_workers=self.n_workers,
            backend="process" if is_process else self.backend,
            backend_kwargs=options if is_process else None,
            engine=self.engine,
            use_locking=self.use_locking,
            rollout_order=self.rollout_order,  # type: ignore[arg-type]
            max_lead=self.max_lead,
        )


class Counting(gym.Env):
    """An environment that numbers its steps, and of which one step may go wrong."""

    def __init__(self, discrete: bool, fault: str, fails_at: int) -> None:
        self.observation_space = spaces.Box(-10, 10, (3,), np.float32)
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (2,))
        self.fault, self.fails_at, self.n_steps = fault, fails_at, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.n_steps += 1
        reward = float(np.sum(action))
        if self.n_steps == self.fails_at:
            if self.fault == "error":
                raise Fault("of an environment")
            if self.fault == "exit":
                raise SystemExit(3)
            if self.fault == "not a number":
                reward = float("nan")
        over = self.np_random.random() < 0.1
        return self._obs(), reward, over and self.n_steps % 2 == 0, over, {"who": os.getpid(), "n_steps": self.n_steps}

    def _obs(self) -> np.ndarray:
        return self.np_random.normal(size=3).astype(np.float32)


class Watching(BaseCallback):
    """Counts, and does harm."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.harm_at = 1 + int(plan.when * (plan.n_rollouts * plan.n_steps - 1))
        self.seen: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self.rng = random.Random(plan.seed)

    def _on_step(self) -> bool:
        for env, info in zip(self.locals.get("env_indices", range(self.plan.n_envs)), self.locals["infos"], strict=True):
            self.seen[int(env), info["who"]].append(info["n_steps"])
        fault = self.plan.fault
        if fault == "killed too often" or (fault == "killed" and self.n_calls == self.harm_at):
            if victims := [p for p in multiprocessing.active_children() if p.name.startswith("A3C worker")]:
                self.rng.choice(victims).kill()
        if self.n_calls == self.harm_at:
            if fault == "callback":
                raise Fault("of a callback")
            if fault == "interrupt":
                raise KeyboardInterrupt
            return fault != "stop"
        return True


def run(seed: int) -> Plan:
    """
    Make a run, and check all that must hold after it.

    :param seed: Of which run
    :return: What kind of run it was
    :raises AssertionError: if something does not hold
    """
    plan = Plan.of(seed)
    n_torch_threads = th.get_num_threads()
    model = plan.make_model()
    watching = Watching(plan) if plan.watched or plan.fault in ("callback", "interrupt", "stop", *OF_PROCESSES) else None
    error: BaseException | None = None
    replays = plan.fault == "none" and plan.use_locking and watching is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if replays:
                with record(model) as schedule:
                    model.learn(plan.n_timesteps, log_interval=None)
            else:
                model.learn(plan.n_timesteps, watching, log_interval=None)
        except BaseException as raised:
            error = raised
    check_error(plan, error)
    if watching is not None:
        check_steps(plan, model, watching)
    if error is None and plan.fault != "stop":
        assert model.num_timesteps == plan.n_timesteps
        assert model._n_updates == plan.n_rollouts * plan.n_workers
    del error
    check_is_whole(model)
    if replays:
        check_replay(plan, model, schedule)
    goes_on(plan, model)
    assert th.get_num_threads() == n_torch_threads
    close(plan, model)
    check_nothing_runs()
    return plan


def check_error(plan: Plan, error: BaseException | None) -> None:
    """It has ended as its fault lets it end."""
    expected: dict[str, tuple[type[BaseException], ...]] = {
        "error": (Fault,),
        "exit": (SystemExit,),
        "not a number": (NonFiniteError,),
        "callback": (Fault,),
        "interrupt": (KeyboardInterrupt,),
        "killed too often": (WorkerDied, type(None)),  # the run may be over before
    }
    kinds = expected.get(plan.fault, (type(None),))
    if plan.subprocesses and plan.fault in ("error", "exit"):  # a SubprocVecEnv's process ends, and tells nobody why
        kinds = (EOFError, ConnectionResetError, BrokenPipeError)
    if plan.rollout_order == "arrival" and plan.fault in ("error", "exit", "not a number") and plan.n_workers > 1:
        kinds = (*kinds, type(None))  # others may have made all rollouts that were left
    if not isinstance(error, kinds):
        raise AssertionError(f"it ended with {error!r}") from error


def check_steps(plan: Plan, model: A3C, watching: Watching) -> None:
    """No step is counted twice or dropped."""
    assert model.num_timesteps == watching.n_calls * plan.n_envs
    if plan.subprocesses and plan.fault in OF_PROCESSES:
        return  # those environments live on, and have made steps that nobody has seen
    for numbers in watching.seen.values():
        assert len(set(numbers)) == len(numbers), numbers
        numbers = sorted(numbers) if plan.rollout_order == "arrival" else numbers
        # In order of arrival two rollouts of a worker may be shown beside each other, and be cut off in their middle.
        in_part = plan.rollout_order == "arrival" and plan.fault in ("stop", "callback", "interrupt")
        assert in_part or numbers == list(range(1, len(numbers) + 1)), numbers


def check_is_whole(model: A3C) -> None:
    """It predicts and saves, and all its numbers are numbers."""
    assert all(bool(th.isfinite(param).all()) for param in model.policy.parameters())
    for rms in running_statistics(model.env):  # type: ignore[arg-type]
        assert np.isfinite(rms.mean).all() and np.isfinite(rms.var).all()
    file = io.BytesIO()
    model.save(file)
    loaded = A3C.load(io.BytesIO(file.getvalue()))
    obs = np.zeros(3, np.float32)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])


def check_replay(plan: Plan, model: A3C, schedule: Any) -> None:
    """The same again is the same, to the last bit."""
    again = plan.make_model()
    with replay(again, schedule):
        again.learn(plan.n_timesteps, log_interval=None)
    for mine, theirs in zip(model.policy.parameters(), again.policy.parameters(), strict=True):
        assert th.equal(mine, theirs)
    close(plan, again)


def goes_on(plan: Plan, model: A3C) -> None:
    """It learns on, where its environments can."""
    if plan.subprocesses and plan.fault in ("error", "exit"):
        return
    assert model.env is not None
    model.env.set_attr("fault", "none")
    before = model.num_timesteps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.learn(2 * plan.n_steps * plan.n_envs, log_interval=None, reset_num_timesteps=False)
    assert model.num_timesteps == before + 2 * plan.n_steps * plan.n_envs


def close(plan: Plan, model: A3C) -> None:
    """A SubprocVecEnv of which a process has died can't close."""
    assert model.env is not None
    if plan.subprocesses and plan.fault in ("error", "exit"):
        for process in vars(model.env.unwrapped)["processes"]:
            process.kill()
            process.join()
    else:
        model.env.close()


def check_nothing_runs() -> None:
    """No worker is left."""
    left: list[Any] = [thread for thread in threading.enumerate() if thread.name.startswith("A3C")]
    left += [process for process in multiprocessing.active_children() if "A3C" in process.name]
    assert not left, left


class Leftovers:
    """What runs may leave behind: file handles, threads, processes, shared memory, memory."""

    _SHARED = Path("/dev/shm")

    def __init__(self) -> None:
        self._process = psutil.Process()
        #: This process, and all of its children that have been seen. Others use the shared memory of the machine, too.
        self._pids = {self._process.pid}
        gc.collect()
        self._before = self._count()
        self._megabytes = self._memory()

    def check(self, max_megabytes: float) -> float:
        """
        :param max_megabytes: How much memory may have been added
        :return: How much was
        """
        gc.collect()  # models and callbacks know each other, and a SubprocVecEnv's pipes close when it goes
        deadline = time.monotonic() + 5  # the system takes a moment to clear away a process
        while (now := self._count()) != self._before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert now == self._before, f"left behind: {now}, and was {self._before}"
        more = self._memory() - self._megabytes
        assert more < max_megabytes, f"{more:.0f} MB more"
        return more

    def _count(self) -> dict[str, Any]:
        children = [child for child in self._process.children(recursive=True) if _is_alive(child)]
        self._pids |= {child.pid for child in children}
        names = os.listdir(self._SHARED) if self._SHARED.exists() else []
        return dict(
            file_handles=self._process.num_fds(),
            threads=threading.active_count(),
            processes=len(children),
            shared=sorted(name for name in names if {*name.split("_")} & {str(pid) for pid in self._pids}),  # torch_PID_...
        )

    def _memory(self) -> float:
        return self._process.memory_info().rss / 1e6


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def warm_up(make: Callable[[int], Any] = run) -> None:
    """Runs of all kinds, after which what stays for good is there: compiled code, a fork server, a tracker of resources."""
    seen: set[tuple[str, str, bool]] = set()
    for seed in range(10**6, 10**6 + 500):
        plan = Plan.of(seed)
        kind = plan.backend, plan.engine, plan.subprocesses
        if kind not in seen and plan.fault == "none" and plan.n_workers > 1:
            seen.add(kind)
            make(seed)
