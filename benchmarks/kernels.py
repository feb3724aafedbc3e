"""
Microseconds of one step, one gradient and one optimizer step, computed by the torch engine and by the fused engine's kernels,
for networks of 64x64 to 1024x1024 units. The kernels are faster in all cases. The smaller the network, the larger the gain.

    python benchmarks/kernels.py
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch as th
from arguments import Option, parse_arguments
from gymnasium import spaces
from report import bars, report
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from sb3_a3c.engines.fused import FusedEngine
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.engines.torch_engine import TorchEngine
from sb3_a3c.kernels import optimizers as kernels
from sb3_a3c.kernels.compilation import compile_kernels
from sb3_a3c.kernels.examples import EXAMPLES
from sb3_a3c.parameters.layout import Layout
from sb3_a3c.parameters.optimizers import make_optimizer

N_STEPS = 8
#: Name, entries of an observation, the actions, the layers, environments of the worker.
CASES: list[tuple[str, int, spaces.Space, list[int], int]] = [
    ("Pendulum, 64x64", 3, spaces.Box(-2, 2, (1,)), [64, 64], 1),
    ("CartPole, 64x64", 4, spaces.Discrete(2), [64, 64], 1),
    *((f"CartPole, 64x64, {n} environments", 4, spaces.Discrete(2), [64, 64], n) for n in (4, 64, 256, 1024)),
    ("HalfCheetah, 64x64", 17, spaces.Box(-1, 1, (6,)), [64, 64], 1),
    ("HalfCheetah, 256x256", 17, spaces.Box(-1, 1, (6,)), [256, 256], 1),
    ("HalfCheetah, 400x300", 17, spaces.Box(-1, 1, (6,)), [400, 300], 1),
    ("HalfCheetah, 1024x1024", 17, spaces.Box(-1, 1, (6,)), [1024, 1024], 1),
]
HYPERPARAMETERS = Hyperparameters(
    gamma=0.99,
    ent_coef=0.01,
    log_std_offset=0.0,
    vf_coef=0.5,
    max_grad_norm=0.5,
    normalize_advantage=False,
    sde_sample_freq=-1,
    lr_schedule=lambda _: 7e-4,
    vf_lr_schedule=None,
)


class Stopwatch:
    """
    Times calls in several rounds and returns the fastest.

    :param n_rounds: Number of rounds
    :param seconds: About how long a round lasts
    """

    def __init__(self, n_rounds: int, seconds: float) -> None:
        self._n_rounds = n_rounds
        self._seconds = seconds

    def microseconds(self, call: Callable[[], Any]) -> float:
        """
        :param call: What to time
        :return: The time of one call in the fastest round
        """
        call()
        started = perf_counter()
        call()
        n_calls = max(1, int(self._seconds / (perf_counter() - started)))
        rounds = []
        for _ in range(self._n_rounds):
            started = perf_counter()
            for _ in range(n_calls):
                call()
            rounds.append((perf_counter() - started) / n_calls)
        return 1e6 * min(rounds)


def filled_buffer(engine: Any, obs_space: spaces.Box, action_space: spaces.Space, n_envs: int) -> RolloutBuffer:
    """
    :param engine: The engine that acts
    :param obs_space: What it observes
    :param action_space: What it does
    :param n_envs: Environments of the worker
    :return: A full buffer of random observations and rewards
    """
    buffer = RolloutBuffer(N_STEPS, obs_space, action_space, "cpu", n_envs=n_envs)
    engine.start_rollout(buffer, HYPERPARAMETERS)
    starts = np.zeros(n_envs, dtype=bool)
    for step in range(N_STEPS):
        obs = np.stack([obs_space.sample() for _ in range(n_envs)])
        engine.act(obs, starts, step)
        engine.add(np.random.normal(size=n_envs))
    engine.compute_returns(buffer, engine.predict_values(obs, starts), starts)
    return buffer


def time_engines(
    watch: Stopwatch, n_obs: int, action_space: spaces.Space, net_arch: list[int], n_envs: int
) -> list[list[float]]:
    """
    :param watch: What to time with
    :param n_obs: Entries of an observation
    :param action_space: The actions
    :param net_arch: The layers
    :param n_envs: Environments of the worker
    :return: Rows of a step and of a gradient: torch, fused
    """
    obs_space = spaces.Box(-1, 1, (n_obs,))
    policy = ActorCriticPolicy(obs_space, action_space, lambda _: 7e-4, net_arch=net_arch)
    layout, seed = Layout(policy), np.random.SeedSequence(0)
    in_torch = TorchEngine(policy, layout, action_space, nullcontext(), seed)
    fused = FusedEngine(policy, layout, action_space, nullcontext(), seed)
    engines: tuple[Any, ...] = (in_torch, fused)
    buffers = [filled_buffer(engine, obs_space, action_space, n_envs) for engine in engines]
    out = th.zeros(layout.size)
    gradients = [
        watch.microseconds(partial(each.gradient, buffer, out)) for each, buffer in zip(engines, buffers, strict=True)
    ]
    obs, starts = buffers[0].observations[0], np.zeros(n_envs, dtype=bool)
    return [[watch.microseconds(partial(engine.act, obs, starts, 0)) for engine in engines], gradients]


def time_optimizers(watch: Stopwatch, size: int) -> dict[str, list[float]]:
    """
    :param watch: What to time with
    :param size: Parameters of the network
    :return: For each optimizer: a step over a vector in torch's operations, and in a kernel
    """
    vector, gradient = th.randn(size), 0.01 * th.randn(size)
    x, g, m, v = (np.full(size, 0.1, dtype=np.float32) for _ in range(4))
    steps: dict[type[th.optim.Optimizer], Callable[[], None]] = {
        th.optim.RMSprop: lambda: kernels.rmsprop_step(x, g, v, 7e-4, 0.99, 1e-5),
        RMSpropTFLike: lambda: kernels.rmsprop_tf_step(x, g, v, 7e-4, 0.99, 1e-5),
        th.optim.Adam: lambda: kernels.adam_step(x, g, m, v, 7e-4, 0.9, 0.999, 1e-5, 10),
    }
    table = {}
    for optimizer_class, step in steps.items():
        policy = ActorCriticPolicy(
            spaces.Box(-1, 1, (1,)),
            spaces.Discrete(2),
            lambda _: 7e-4,
            optimizer_class=optimizer_class,
            optimizer_kwargs=dict(eps=1e-5),
        )
        optimizer = make_optimizer(policy, vector, Layout(policy))
        state = optimizer.new_state(vector)
        in_torch = partial(optimizer.step, optimizer.plan(state, state), state, state, gradient, [7e-4])
        table[optimizer_class.__name__] = [watch.microseconds(in_torch), watch.microseconds(step)]
    return table


def main() -> None:
    args = parse_arguments(__doc__, repetitions=7, seconds=Option(0.02, 0.0001, "approximate seconds per repetition of a row"))
    compile_kernels(list(EXAMPLES))
    watch = Stopwatch(args.repetitions, args.seconds)
    th.set_num_threads(1)
    times: dict[str, list[float]] = {}
    for name, n_obs, action_space, net_arch, n_envs in CASES:
        act, gradient = time_engines(watch, n_obs, action_space, net_arch, n_envs)
        times |= {f"{name}, act": act, f"{name}, gradient": gradient}
    for size in (9_216, 150_000):
        times |= {f"{name}, {size:,} parameters": pair for name, pair in time_optimizers(watch, size).items()}
    rows = [[name, f"{torch:.1f}", f"{fused:.1f}", f"{torch / fused:.1f}"] for name, (torch, fused) in times.items()]
    notes = [
        f"Microseconds, in the fastest of {args.repetitions} repetition(s), on one core; gradients are of {N_STEPS} steps. "
        "The name of a task stands for the size of its observations and actions."
    ]
    panels = {"": {name: torch / fused for name, (torch, fused) in times.items()}}
    draw = bars(panels, "times as fast as torch", mark=(1.0, "torch"))
    report(args, "The fused engine's kernels and torch", ["What", "torch", "fused", "Ratio"], rows, notes, draw)


if __name__ == "__main__":
    main()
