"""
The fault campaign, and a long run: ``python tests/soak/run.py``. Both have bounds, and say how far they have come.

The campaign makes runs whose kind, fault and moment are drawn from a seed; of the first that breaches an invariant it prints
the seed, with which that run can be made again (``--first-seed N --runs 1``). The long run learns Pendulum in two processes
and looks at its memory all the while.
"""

import _thread
import argparse
import multiprocessing
import threading
import time
import traceback
from collections import Counter
from dataclasses import asdict
from functools import partial

import gymnasium as gym
import psutil
from campaign import Leftovers, Plan, run, warm_up
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from sb3_a3c import A3C

#: How much memory all runs together may leave behind: allocators keep a part of what was given back. Out of the air.
_MAX_MEGABYTES = 100.0


def campaign(n_runs: int, first_seed: int, minutes: float) -> bool:
    """
    :param n_runs: How many runs
    :param first_seed: The first's seed; the others have the next ones
    :param minutes: When to stop at the latest
    :return: Whether all invariants held
    """
    warm_up()
    leftovers, kinds, end = Leftovers(), Counter[str](), time.monotonic() + 60 * minutes
    started, seed = time.monotonic(), first_seed
    for seed in range(first_seed, first_seed + n_runs):
        try:
            plan = run(seed)
            more = leftovers.check(_MAX_MEGABYTES)
        except BaseException:
            print(f"Seed {seed} breaches an invariant: {asdict(Plan.of(seed))}", flush=True)
            traceback.print_exc()
            return False
        kinds.update([plan.backend, plan.engine, plan.fault])
        done = seed - first_seed + 1
        if done % 100 == 0 or done == n_runs:
            print(f"{done} runs in {time.monotonic() - started:.0f} s, {more:+.0f} MB; {dict(kinds)}", flush=True)
        if time.monotonic() > end:
            print(f"Out of time after {done} of {n_runs} runs", flush=True)
            break
    print(f"Seeds {first_seed} to {seed}: no breach", flush=True)
    return True


class Memory(threading.Thread):
    """
    Notes how much memory the program and its workers take while a model learns; no callback, which would slow it down.

    :param seconds: How often
    :param deadline: When to interrupt the program, of ``time.monotonic()``
    """

    def __init__(self, model: A3C, seconds: float, deadline: float) -> None:
        super().__init__(name="memory")
        self.model, self.seconds, self.deadline = model, seconds, deadline
        self.megabytes: list[float] = []
        self.over = threading.Event()

    def run(self) -> None:
        started = time.monotonic()
        while not self.over.wait(self.seconds):
            family = [psutil.Process(), *psutil.Process().children(recursive=True)]
            try:
                self.megabytes.append(sum(process.memory_full_info().pss for process in family) / 1e6)
            except psutil.NoSuchProcess:  # a worker has just ended
                continue
            n_timesteps, seconds = self.model.num_timesteps, time.monotonic() - started
            print(
                f"{n_timesteps:,} steps, {n_timesteps / seconds:,.0f} a second, {self.megabytes[-1]:.1f} MB",
                flush=True,
            )
            if time.monotonic() > self.deadline:
                _thread.interrupt_main()
                return


def long_run(n_timesteps: int, minutes: float) -> bool:
    """
    :param n_timesteps: How many steps
    :param minutes: When to stop at the latest
    :return: Whether the memory stayed flat
    """
    env = VecMonitor(DummyVecEnv([partial(gym.make, "Pendulum-v1")] * 16))  # SB3's Monitor keeps the return of each episode
    model = A3C("MlpPolicy", env, n_workers=2, n_steps=32, backend="process", learning_rate=1e-5)
    memory = Memory(model, max(1.0, n_timesteps / 5e6), time.monotonic() + 60 * minutes)
    memory.start()
    try:
        model.learn(n_timesteps)
    except KeyboardInterrupt:
        print("Out of time", flush=True)
    finally:
        memory.over.set()
        memory.join()
    early, late = memory.megabytes[len(memory.megabytes) // 10], memory.megabytes[-1]
    print(f"{model.num_timesteps:,} steps; memory after a tenth {early:.1f} MB, at the end {late:.1f} MB", flush=True)
    return late < early + 20  # out of the air


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000, help="runs of the campaign; 0: none")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first run of the campaign")
    parser.add_argument("--steps", type=int, default=100_000_000, help="steps of the long run; 0: none")
    parser.add_argument("--minutes", type=float, default=120.0, help="bound of each of the two")
    args = parser.parse_args()
    # Whoever starts the fork server first, SubprocVecEnv too, decides what its processes need not import anew.
    multiprocessing.set_forkserver_preload(["sb3_a3c.backends.process.preloaded", "campaign"])
    held = args.runs == 0 or campaign(args.runs, args.first_seed, args.minutes)
    held = (args.steps == 0 or long_run(args.steps, args.minutes)) and held
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
