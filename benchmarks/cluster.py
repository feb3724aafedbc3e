"""
Steps per second of workers on Ray: of real ones, all on one machine, and of up to 1,000 in a simulation that is fed with times
measured in the real runs. The speed grows with the number of workers, until the driver's time per rollout is the limit.

Real runs, on a cluster of two nodes on this machine: each worker has one environment whose step waits, as for a simulator, so
that cores are not the limit. ``Of the limit`` is the share of the steps/s of workers that wait for nothing else: as many as
there are workers, divided by the pause. They are made with no callback that looks at steps, with one that does, and with
``backend="process"``.

Simulation: each worker makes a rollout, and sends its gradient over a network to the driver, which handles one message after
another and answers with the parameters. The processor time that the driver takes per rollout, all its threads together, is
measured, with vectors of several sizes; once more with every vector in Ray's object store, instead of beside the calls; and
with gradients in bfloat16.

Learning with gradients in bfloat16: CartPole with two workers of four environments, and the same seeds with both types. The
means of the last 100 episodes' returns are shown as median and range over the seeds.

    python benchmarks/cluster.py
"""

import heapq
import logging
import os
import statistics
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
import psutil
import ray
from arguments import Option, parse_arguments
from gymnasium import spaces
from ray.cluster_utils import Cluster
from report import report
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_a3c import A3C, register_callback
from sb3_a3c.backends.ray import parts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_STEPS = 16
#: Rollouts of each worker before the clock starts.
WARM_UP = 10
#: Hidden units of the policies that the driver's time is measured with.
WIDTHS = (64, 256, 1024)
N_IN_FLIGHT = 2
#: How vectors are sent.
BESIDE, STORED, ROUNDED = "beside the calls", "through the object store", "with gradients in bfloat16"
_PROCESSES = ("driver", "workers", "daemons")


class Waiting(gym.Env):
    """
    An environment whose every step waits, and whose observations are zeros.

    :param seconds: How long
    """

    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._obs = np.zeros(4, np.float32)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        return self._obs, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self._seconds > 0:
            time.sleep(self._seconds)
        return self._obs, 0.0, False, False, {}


class Clock(BaseCallback):
    """Measures the steps/s and processor times after the workers have started. It looks at no step."""

    def _on_step(self) -> bool:
        n_steps: int = self.model.n_steps  # type: ignore[attr-defined]
        if self.n_calls == WARM_UP * n_steps:
            self.started, self.first, self.cpu_started = time.monotonic(), self.num_timesteps, cpu_seconds()
        elif self.num_timesteps >= self.model._total_timesteps:
            self.ended, self.last, self.cpu_ended = time.monotonic(), self.num_timesteps, cpu_seconds()
        return True

    @property
    def rate(self) -> float:
        """:return: Steps/s"""
        return (self.last - self.first) / (self.ended - self.started)

    @property
    def cpu(self) -> dict[str, float]:
        """:return: Processor time per rollout: of the driver, all its threads together, of all actors, and of Ray's daemons"""
        n_rollouts = (self.last - self.first) / self.model.n_steps  # type: ignore[attr-defined]
        return {name: (self.cpu_ended[name] - self.cpu_started[name]) / n_rollouts for name in _PROCESSES}


class LookingClock(Clock):
    """A clock that looks at every step."""


register_callback(Clock, lambda callback, n_steps: False)


def cpu_seconds() -> Counter[str]:
    """
    :return: Processor time so far of this process, of workers and of Ray's daemons, all its children
    """
    seconds = Counter({"driver": time.process_time()})
    for process in psutil.Process().children(recursive=True):
        try:
            is_worker = any("WorkerActor" in part or "forkserver" in part for part in process.cmdline())
            times = process.cpu_times()
        except psutil.Error:  # it has ended
            continue
        seconds["workers" if is_worker else "daemons"] += times.user + times.system
    return seconds


class Measured(NamedTuple):
    """A real run, or a simulated one. Seconds are of processor time for each rollout."""

    rate: float
    staleness: float
    driver_seconds: float
    worker_seconds: float = 0.0
    daemon_seconds: float = 0.0


def learn(
    n_workers: int,
    seconds: float,
    n_rollouts: int,
    n_steps: int = N_STEPS,
    width: int = 64,
    backend: str = "ray",
    looking: bool = False,
    gradient_dtype: str | None = None,
) -> Measured:
    """
    :param n_workers: How many workers
    :param seconds: The pause of each step
    :param n_rollouts: How many rollouts each worker makes while the clock runs
    :param n_steps: Steps of a rollout
    :param width: Hidden units of each layer
    :param backend: Where the workers are
    :param looking: Whether a callback looks at every step
    :param gradient_dtype: The type in which gradients are sent on Ray
    :return: What was measured
    """
    env = DummyVecEnv([lambda: Waiting(seconds)] * n_workers)
    on_ray = dict(num_cpus=0.5, n_in_flight=N_IN_FLIGHT, gradient_dtype=gradient_dtype)
    options = on_ray if backend == "ray" else None
    policy = dict(net_arch=[width] * 2)
    model = A3C("MlpPolicy", env, n_steps=n_steps, backend=backend, backend_kwargs=options, policy_kwargs=policy)
    clock = LookingClock() if looking else Clock()
    model.learn(n_workers * n_steps * (WARM_UP + n_rollouts), clock, log_interval=None)
    cpu = clock.cpu
    staleness = model.logger.name_to_value["async/staleness_mean"]
    return Measured(clock.rate, staleness, *(cpu[name] for name in _PROCESSES))


def learned(gradient_dtype: str | None, seed: int, n_steps: int) -> float:
    """
    :param gradient_dtype: The type in which gradients are sent
    :param seed: Seed of the run
    :param n_steps: Steps of CartPole to learn from
    :return: The mean return of the last 100 episodes
    """
    env = make_vec_env("CartPole-v1", 8, seed=seed)
    options = dict(num_cpus=0.5, gradient_dtype=gradient_dtype)
    model = A3C("MlpPolicy", env, n_workers=2, backend="ray", backend_kwargs=options, seed=seed)
    model.learn(n_steps)
    return statistics.mean(episode["r"] for episode in model.ep_info_buffer or ())


@contextmanager
def two_nodes(n_cpus: int) -> Iterator[None]:
    """
    Ray on two nodes, which are both on this machine.

    :param n_cpus: How many cores each of them is to think it has
    """
    os.environ.setdefault("RAY_worker_niceness", "0")  # as other processes have
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=n_cpus, include_dashboard=False))
    cluster.add_node(num_cpus=n_cpus)
    ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


@contextmanager
def everything_in_the_store() -> Iterator[None]:
    """Let Ray put every vector of more than 100 kB into its object store."""
    before, parts.LARGEST_VECTOR = parts.LARGEST_VECTOR, 0
    try:
        yield
    finally:
        parts.LARGEST_VECTOR = before


def n_parameters(width: int) -> int:
    """
    :param width: Hidden units of each layer
    :return: Parameters of the policy
    """
    model = A3C("MlpPolicy", DummyVecEnv([lambda: Waiting(0)]), policy_kwargs=dict(net_arch=[width] * 2))
    return sum(param.numel() for param in model.policy.parameters())


def simulate(
    n_workers: int, rollout_seconds: float, driver_seconds: float, network_seconds: float, n_rollouts: int = 60
) -> Measured:
    """
    A closed queue: each worker has so many rollouts in flight, and the driver serves one message at a time.

    :param n_workers: How many workers
    :param rollout_seconds: What a worker takes for a rollout and its gradient, with a tenth of it as standard deviation
    :param driver_seconds: What the driver takes to apply a gradient and to hand out the next rollout
    :param network_seconds: What a message takes, each way
    :param n_rollouts: How many rollouts of each worker to simulate, of which a third is to warm up
    :return: Steps/s and staleness
    """
    rng = np.random.default_rng(0)
    events: list[
        tuple[float, int, int, int]
    ] = []  # when, at the driver (1) or at the worker (0), which worker, version pulled
    waiting: list[deque[int]] = [deque() for _ in range(n_workers)]
    is_busy = [False] * n_workers
    for worker in range(n_workers):
        for _ in range(N_IN_FLIGHT):
            heapq.heappush(events, (float(rng.uniform(0, rollout_seconds)), 0, worker, 0))
    free_at, version, total = 0.0, 0, n_workers * n_rollouts
    staleness, warm_up_at = [], 0.0

    def begin(worker: int, now: float) -> None:
        is_busy[worker] = True
        took = max(0.1, 1 + 0.1 * rng.standard_normal()) * rollout_seconds
        heapq.heappush(events, (now + took, 2, worker, waiting[worker].popleft()))

    while version < total:
        now, kind, worker, pulled = heapq.heappop(events)
        if kind == 0:  # a rollout is handed out to the worker
            waiting[worker].append(pulled)
        elif kind == 2:  # the worker has made it
            is_busy[worker] = False
            heapq.heappush(events, (now + network_seconds, 1, worker, pulled))
        else:  # its gradient is at the driver
            free_at = max(now, free_at) + driver_seconds
            staleness.append(version - pulled)
            version += 1
            if version == total // 3:
                warm_up_at = free_at
            heapq.heappush(events, (free_at + network_seconds, 0, worker, version))
        if kind != 1 and waiting[worker] and not is_busy[worker]:
            begin(worker, now)
    n_measured = total - total // 3
    return Measured(n_measured * N_STEPS / (free_at - warm_up_at), statistics.mean(staleness[-n_measured:]), driver_seconds)


def main() -> None:
    args = parse_arguments(
        __doc__,
        workers=Option("2,4,8,16", "2", "real workers, separated by commas"),
        simulated=Option("16,64,128,256,512,1000", "64", "simulated workers, separated by commas"),
        pause=Option(2.0, 2.0, "milliseconds that a step of an environment waits"),
        rollouts=Option(100, 10, "rollouts of each worker while the clock runs"),
        seeds=Option(5, 1, "seeds of CartPole, learned with gradients in float32 and in bfloat16"),
        learned_steps=Option(200_000, 4_000, "steps of CartPole"),
        network=Option(0.5, 0.5, "milliseconds that a message takes in the simulation, each way"),
    )
    pause = args.pause / 1000
    widths = WIDTHS[:2] if args.quick else WIDTHS
    counts = {width: n_parameters(width) for width in widths}
    numbers = [int(n) for n in args.workers.split(",")]
    in_parts = [width for width in widths if 100_000 < 4 * counts[width] <= parts.LARGEST_VECTOR]
    costs: dict[tuple[int, str], list[Measured]] = {(width, how): [] for width in widths for how in (BESIDE, ROUNDED)}
    costs |= {(width, STORED): [] for width in in_parts}
    kinds: dict[str, dict[str, Any]] = {"ray": {}, "looking": dict(looking=True), "process": dict(backend="process")}
    runs: dict[tuple[int, str], list[Measured]] = {(n, kind): [] for n in numbers for kind in kinds}
    with two_nodes(n_cpus=max(numbers)):
        for _ in range(args.repetitions):
            for (width, how), of_repetitions in costs.items():
                dtype = "bfloat16" if how == ROUNDED else None
                with everything_in_the_store() if how == STORED else nullcontext():
                    n_rollouts = max(args.rollouts, 20)
                    of_repetitions.append(learn(2, pause, n_rollouts, n_steps=4, width=width, gradient_dtype=dtype))
            for (n_workers, kind), of_repetitions in runs.items():
                of_repetitions.append(learn(n_workers, pause, args.rollouts, **kinds[kind]))
        returns = {
            dtype: sorted(learned(dtype, seed, args.learned_steps) for seed in range(args.seeds))
            for dtype in (None, "bfloat16")
        }
    cost = {key: statistics.median(run.driver_seconds for run in measured) for key, measured in costs.items()}
    real = {key: sorted(measured)[len(measured) // 2] for key, measured in runs.items()}
    simulated = [int(n) for n in args.simulated.split(",")]

    def simulate_with(n_workers: int, width: int) -> Measured:
        return simulate(n_workers, N_STEPS * pause, cost[width, BESIDE], args.network / 1000)

    rows = []
    for n_workers in sorted({*numbers, *simulated}):
        limit, model = n_workers / pause, simulate_with(n_workers, widths[0])
        cells = ["-"] * 5
        if n_workers in numbers:
            ray_, looking, process = (real[n_workers, kind] for kind in kinds)
            shares = [f"{run.rate / limit:.0%}" for run in (ray_, looking, process)]
            cells = [f"{ray_.rate:,.0f}", *shares, f"{ray_.staleness:.1f}"]
        rows.append([f"{n_workers:,}", *cells, f"{model.rate:,.0f}", f"{model.rate / limit:.0%}", f"{model.staleness:.1f}"])

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        n = sorted({*numbers, *simulated})
        axes.plot(n, [n_workers / pause for n_workers in n], ":", color="black", label="no worker waits")
        for width in widths:
            label = f"simulated, {counts[width]:,} parameters, {cost[width, BESIDE] * 1e3:.2f} ms per rollout"
            axes.plot(n, [simulate_with(n_workers, width).rate for n_workers in n], label=label)
        axes.plot(numbers, [real[n_workers, "ray"].rate for n_workers in numbers], "o", color="C0", label="measured")
        axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="steps/s")
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)

    listed = ", ".join(
        f"{cost[width, BESIDE] * 1e3:.2f} ms with {counts[width]:,} parameters (a vector of {4 * counts[width] / 1e6:.2g} MB"
        + "".join(f"; {cost[width, how] * 1e3:.2f} ms {how}" for how in (STORED, ROUNDED) if (width, how) in cost)
        + ")"
        for width in widths
    )
    in_float32, in_bfloat16 = (f"{statistics.median(of):.0f} ({of[0]:.0f} to {of[-1]:.0f})" for of in returns.values())
    used = {kind: real[numbers[-1], kind] for kind in kinds}
    n_cores = {kind: sum(run[2:]) * run.rate / N_STEPS for kind, run in used.items()}
    report(
        args,
        "Workers on Ray",
        ["Workers", "Steps/s", "Of the limit", "Looking", "Processes", "Staleness", "Simulated", "Of the limit", "Staleness"],
        rows,
        [
            f"Each step waits {args.pause:g} ms, and a rollout has {N_STEPS} steps. Looking: of the limit, with a callback "
            'that looks at every step. Processes: of the limit, with ``backend="process"``. Staleness is the mean number of '
            "updates between a worker's pull and its push. Simulated: steps/s in the simulation.",
            f"Processor time per rollout with {numbers[-1]} workers on Ray: {used['ray'].driver_seconds * 1e3:.2f} ms in the "
            f"driver, {used['ray'].worker_seconds * 1e3:.2f} ms in its actor and {used['ray'].daemon_seconds * 1e3:.2f} ms in "
            f"Ray's daemons, which is {n_cores['ray']:.1f} cores in all. With as many processes: "
            f"{used['process'].driver_seconds * 1e3:.2f} ms in the main process and "
            f"{used['process'].worker_seconds * 1e3:.2f} ms in the worker, which is {n_cores['process']:.1f} cores.",
            f"Processor time of the driver per rollout: {listed}. It is that of all its threads. Some of them run at the same "
            "time, so a real driver is a little faster.",
            f"CartPole after {args.learned_steps:,} steps, {args.seeds} seeds: {in_float32} with gradients in float32, "
            f"{in_bfloat16} in bfloat16.",
            f"The simulation is of nodes with enough cores, {args.network:g} ms per message each way, and the smallest "
            "policy.",
        ],
        draw,
    )


if __name__ == "__main__":
    main()
