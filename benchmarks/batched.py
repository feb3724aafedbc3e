"""
Steps per second with simulators that step many environments in one call: A3C with two workers, beside Stable-Baselines3's
A2C and PPO over the same ``VectorVecEnv``. A3C makes several times their steps. Random actions show what the simulators can do
without a policy.

Simulators: Gymnasium's CartPole (one function for the batch), the compiled Pendulum of ``examples/compiled_env.py``, and
EnvPool's Pendulum and HalfCheetah, if EnvPool is installed (``pip install envpool``). Two batches, ``n_steps`` 8, two hidden
layers of 64 units.

    python benchmarks/batched.py
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from arguments import Option, parse_arguments
from gymnasium.vector import VectorEnv
from report import bars, report
from speed import measure, median_and_ratios, preload
from stable_baselines3 import A2C, PPO

from sb3_a3c import A3C, VectorVecEnv

N_STEPS = 8
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from compiled_env import CompiledPendulum  # noqa: E402


def _cartpole(n_envs: int) -> VectorEnv:
    return gym.make_vec("CartPole-v1", n_envs, "vector_entry_point")


def _envpool(env_id: str, n_envs: int) -> VectorEnv:
    import envpool  # type: ignore[import-not-found]

    return envpool.make_gymnasium(env_id, num_envs=n_envs, num_threads=1)


SIMULATORS: dict[str, Callable[[int], VectorEnv]] = {"CartPole": _cartpole, "compiled Pendulum": CompiledPendulum}
if find_spec("envpool") is not None:
    SIMULATORS |= {f"EnvPool {env_id}": partial(_envpool, env_id) for env_id in ("Pendulum-v1", "HalfCheetah-v4")}
#: The algorithm and its arguments.
ALGORITHMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "A2C": (A2C, dict(n_steps=N_STEPS)),
    "PPO": (PPO, dict(n_steps=64, batch_size=1024)),
    "A3C, 2 threads": (A3C, dict(n_steps=N_STEPS, backend="thread")),
    "A3C, 2 processes": (A3C, dict(n_steps=N_STEPS, backend="process")),
}
_RANDOM = "random actions, 1 thread"


def measure_random(make: Callable[[], VectorEnv], seconds: float) -> float:
    """
    :param make: Makes a batch
    :param seconds: How long
    :return: Steps/s of one batch with the same random actions again and again
    """
    env = make()
    env.reset(seed=0)
    action = np.stack([env.single_action_space.sample() for _ in range(env.num_envs)])
    started, n_steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        env.step(action)
        n_steps += env.num_envs
    rate = n_steps / (time.perf_counter() - started)
    env.close()
    return rate


def measure_rate(name: str, make: Callable[[], VectorEnv], timesteps: int) -> float:
    """
    :param name: A key of ``ALGORITHMS``
    :param make: Makes a batch
    :param timesteps: How many steps
    :return: Steps/s
    """
    algorithm, kwargs = ALGORITHMS[name]
    with closing(VectorVecEnv([make, make])) as env:
        return measure(algorithm("MlpPolicy", env, seed=0, device="cpu", **kwargs), timesteps).rate


def main() -> None:
    args = parse_arguments(
        __doc__,
        timesteps=Option(200_000, 100, "of a run"),
        sizes=Option("64,256", "8", "environments per batch"),
    )
    preload()
    rows, panels = [], {}
    for simulator, make_batch in SIMULATORS.items():
        for size in map(int, args.sizes.split(",")):
            make = partial(make_batch, size)
            rates: dict[str, list[float]] = {name: [] for name in [*ALGORITHMS, _RANDOM]}
            for _ in range(args.repetitions):
                for name in ALGORITHMS:
                    rates[name].append(measure_rate(name, make, args.timesteps))
                rates[_RANDOM].append(measure_random(make, 0.01 if args.quick else 1.0))
            title = f"{simulator}, {size} per batch"
            rows += [[f"{title}: {name}", *median_and_ratios(values, rates["A2C"])] for name, values in rates.items()]
            panels[title] = {name: statistics.median(values) for name, values in rates.items()}
    notes = [
        f"Medians of {args.repetitions} repetition(s); two batches, n_steps={N_STEPS} (PPO: 64), two layers of 64 units. "
        "Ratios are to A2C. Random actions: one batch in one thread, without a policy."
    ]
    header = ["Simulator and algorithm", "Steps/s", "By A2C's", "least"]
    report(args, "Batched environments: steps per second", header, rows, notes, bars(panels, "steps/s", share_x=False))


if __name__ == "__main__":
    main()
