"""
Steps per second with simulators that step many environments in one call: A3C with two workers, beside Stable-Baselines3's
A2C and PPO over the same ``VectorVecEnv``. A3C makes several times their steps. The limit is what simulators and kernels alone
would reach, one after the other.

Simulators: Gymnasium's CartPole (one function for the batch), the compiled Pendulum of ``examples/compiled_env.py``, and
EnvPool's Pendulum and HalfCheetah, if EnvPool is installed (``pip install envpool``). Two batches, ``n_steps`` 8, two hidden
layers of 64 units.

    python benchmarks/batched.py
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from arguments import Option, parse_arguments
from gymnasium.vector import VectorEnv
from kernels import HYPERPARAMETERS
from report import bars, report
from speed import measure, measure_together, median_and_ratios, preload
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_a3c import A3C, VectorVecEnv
from sb3_a3c.engines.fused import FusedEngine
from sb3_a3c.parameters.layout import Layout

N_STEPS = 8
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from compiled_env import CompiledPendulum  # noqa: E402


def _cartpole(n_envs: int) -> VectorEnv:
    return gym.make_vec("CartPole-v1", n_envs, "vector_entry_point")


def _envpool(env_id: str, n_envs: int) -> VectorEnv:
    import envpool  # type: ignore[import-not-found]

    make: Any = envpool.make_gymnasium
    return make(env_id, num_envs=n_envs, num_threads=1)


SIMULATORS: dict[str, Callable[[int], VectorEnv]] = {"CartPole": _cartpole, "compiled Pendulum": CompiledPendulum}
if find_spec("envpool") is not None:
    SIMULATORS |= {f"EnvPool {env_id}": partial(_envpool, env_id) for env_id in ("Pendulum-v1", "HalfCheetah-v4")}
#: The algorithm, its arguments, and how many times the steps of A2C it makes, so that runs take about equally long.
ALGORITHMS: dict[str, tuple[Any, dict[str, Any], float]] = {
    "A2C": (A2C, dict(n_steps=N_STEPS), 1.0),
    "PPO": (PPO, dict(n_steps=64, batch_size=1024), 0.4),
    "A3C, 2 threads": (A3C, dict(n_steps=N_STEPS, backend="thread"), 3.0),
    "A3C, 2 processes": (A3C, dict(n_steps=N_STEPS, backend="process"), 8.0),
}
_SIMULATORS, _LIMIT = "the simulators alone, 2 processes", "simulators, then kernels, 2 processes"


def measure_limits(make: Callable[[], VectorEnv], seconds: float) -> tuple[float, float]:
    """
    :param make: Makes a batch
    :param seconds: How long each is measured
    :return: Steps/s of two processes: of their simulators alone, and of one that steps and then computes, with nothing between
    """
    simulators, limits = zip(*measure_together(2, _measure_parts, make, seconds), strict=True)
    return sum(simulators), sum(limits)


def _measure_parts(make: Callable[[], VectorEnv], seconds: float, barrier: Any, rates: Any) -> None:
    """Time a batch with the same random actions again and again, then the kernels' part of rollouts over its observations."""
    env = make()
    obs, _ = env.reset(seed=0)
    action = np.stack([env.single_action_space.sample() for _ in range(env.num_envs)])
    barrier.wait()
    simulator = _rate(lambda: env.step(action), env.num_envs, seconds)
    policy = ActorCriticPolicy(env.single_observation_space, env.single_action_space, lambda _: 7e-4)
    layout = Layout(policy)
    engine = FusedEngine(policy, layout, env.single_action_space, nullcontext(), np.random.SeedSequence(0))
    buffer = RolloutBuffer(N_STEPS, policy.observation_space, policy.action_space, "cpu", n_envs=env.num_envs)
    starts, gradient = np.zeros(env.num_envs, bool), np.zeros(layout.size, np.float32)

    def compute() -> None:
        engine.start_rollout(buffer, HYPERPARAMETERS)
        for step in range(N_STEPS):
            engine.act(obs, starts, step)
        engine.compute_returns(buffer, engine.predict_values(obs, starts), starts)
        engine.gradient(buffer, gradient)

    compute()
    barrier.wait()
    kernels = _rate(compute, N_STEPS * env.num_envs, seconds)
    rates.put((simulator, 1.0 / (1.0 / simulator + 1.0 / kernels)))
    env.close()


def _rate(call: Callable[[], Any], n_steps: int, seconds: float) -> float:
    started, n_calls = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        call()
        n_calls += 1
    return n_steps * n_calls / (time.perf_counter() - started)


def measure_rate(name: str, make: Callable[[], VectorEnv], timesteps: float) -> float:
    """
    :param name: A key of ``ALGORITHMS``
    :param make: Makes a batch
    :param timesteps: How many steps A2C makes
    :return: Steps/s
    """
    algorithm, kwargs, factor = ALGORITHMS[name]
    with closing(VectorVecEnv([make, make])) as env:
        return measure(algorithm("MlpPolicy", env, seed=0, device="cpu", **kwargs), factor * timesteps).rate


def main() -> None:
    args = parse_arguments(
        __doc__,
        timesteps=Option(300_000, 100, "of a run of A2C; with MuJoCo a tenth of them"),
        sizes=Option("64,256", "8", "environments per batch"),
    )
    preload()
    rows, panels = [], {}
    for simulator, make_batch in SIMULATORS.items():
        for size in map(int, args.sizes.split(",")):
            make = partial(make_batch, size)
            timesteps = args.timesteps / (10 if "HalfCheetah" in simulator else 1)
            rates: dict[str, list[float]] = {name: [] for name in [*ALGORITHMS, _SIMULATORS, _LIMIT]}
            for _ in range(args.repetitions):
                for name in ALGORITHMS:
                    rates[name].append(measure_rate(name, make, timesteps))
                for name, rate in zip((_SIMULATORS, _LIMIT), measure_limits(make, 0.01 if args.quick else 1.0), strict=True):
                    rates[name].append(rate)
            title = f"{simulator}, {size} per batch"
            for name, values in rates.items():
                ratios = median_and_ratios(values, rates["A2C"])
                of_limit = statistics.median(a / b for a, b in zip(values, rates[_LIMIT], strict=True))
                rows.append([f"{title}: {name}", *ratios, "-" if name == _SIMULATORS else f"{of_limit:.0%}"])
            panels[title] = {name: statistics.median(values) for name, values in rates.items()}
    notes = [
        f"Medians of {args.repetitions} repetition(s); two batches, n_steps={N_STEPS} (PPO: 64), two layers of 64 units. "
        "Ratios are to A2C. The limit is what two processes reach that step their simulator and then compute actions, returns "
        "and gradient with A3C's kernels, with nothing between; it is computed from the times of the two parts."
    ]
    header = ["Simulator and algorithm", "Steps/s", "By A2C's", "least", "Of the limit"]
    report(args, "Batched environments: steps per second", header, rows, notes, bars(panels, "steps/s", share_x=False))


if __name__ == "__main__":
    main()
