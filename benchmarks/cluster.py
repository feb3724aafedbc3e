"""
Steps per second of workers on Ray: of real ones, all on one machine, and of up to 1,000 in a simulation that is fed with times
measured in the real runs. The speed grows with the number of workers, until the driver's time per rollout is the limit.

Real runs: each worker has one environment whose step waits, as for a simulator, so that cores are not the limit. ``Of the
limit`` is the share of the steps/s of workers that wait for nothing else: as many as there are workers, divided by the pause.

Simulation: each worker makes a rollout, and sends its gradient over a network to the driver, which handles one message after
another and answers with the parameters. The processor time that the driver takes per rollout, all its threads together, is
measured, with vectors of several sizes.

    python benchmarks/cluster.py
"""

import heapq
import statistics
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
from arguments import Option, parse_arguments
from gymnasium import spaces
from report import report
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_a3c import A3C

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_STEPS = 16
#: Rollouts of each worker before the clock starts.
WARM_UP = 10
#: Hidden units of the policies that the driver's time is measured with.
WIDTHS = (64, 256, 1024)
N_IN_FLIGHT = 2


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
    """Measures the steps/s, the driver's processor time and the staleness after the workers have started."""

    def _on_training_start(self) -> None:
        self.staleness: list[int] = []

    def _on_step(self) -> bool:
        if self.n_calls == WARM_UP * self.model.n_steps:  # type: ignore[attr-defined]
            self.started, self.first, self.cpu_started = time.monotonic(), self.num_timesteps, time.process_time()
        self.ended, self.cpu_ended = time.monotonic(), time.process_time()
        return True

    def _on_rollout_end(self) -> None:
        self.staleness += self.locals["staleness"]

    @property
    def rate(self) -> float:
        """:return: Steps/s"""
        return (self.num_timesteps - self.first) / (self.ended - self.started)

    @property
    def driver_seconds(self) -> float:
        """:return: Processor time of this process, all threads together, for each rollout"""
        n_steps = (self.num_timesteps - self.first) / self.model.n_steps  # type: ignore[attr-defined]
        return (self.cpu_ended - self.cpu_started) / n_steps


class Measured(NamedTuple):
    """A real run, or a simulated one."""

    rate: float
    staleness: float
    driver_seconds: float


def learn(n_workers: int, seconds: float, n_rollouts: int, n_steps: int = N_STEPS, width: int = 64) -> Measured:
    """
    :param n_workers: How many workers
    :param seconds: The pause of each step
    :param n_rollouts: How many rollouts each worker makes while the clock runs
    :param n_steps: Steps of a rollout
    :param width: Hidden units of each layer
    :return: What was measured
    """
    env = DummyVecEnv([lambda: Waiting(seconds)] * n_workers)
    options = dict(num_cpus=0.5, n_in_flight=N_IN_FLIGHT)
    model = A3C(
        "MlpPolicy", env, n_steps=n_steps, backend="ray", backend_kwargs=options, policy_kwargs=dict(net_arch=[width] * 2)
    )
    clock = Clock()
    model.learn(n_workers * n_steps * (WARM_UP + n_rollouts), clock, log_interval=None)
    return Measured(clock.rate, statistics.mean(clock.staleness[WARM_UP * n_workers :]), clock.driver_seconds)


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
        workers=Option("2,4,8", "2", "real workers, separated by commas"),
        simulated=Option("16,64,128,256,512,1000", "64", "simulated workers, separated by commas"),
        pause=Option(2.0, 2.0, "milliseconds that a step of an environment waits"),
        rollouts=Option(200, 10, "rollouts of each worker while the clock runs"),
        network=Option(0.5, 0.5, "milliseconds that a message takes in the simulation, each way"),
    )
    pause = args.pause / 1000
    widths = WIDTHS[:1] if args.quick else WIDTHS
    driver_seconds = {}
    for width in widths:
        runs = [learn(2, pause, max(args.rollouts, 20), n_steps=4, width=width) for _ in range(args.repetitions)]
        driver_seconds[width] = statistics.median(run.driver_seconds for run in runs)
    counts = {width: n_parameters(width) for width in widths}
    real: dict[int, Measured] = {}
    for n_workers in map(int, args.workers.split(",")):
        runs = [learn(n_workers, pause, args.rollouts) for _ in range(args.repetitions)]
        real[n_workers] = sorted(runs)[len(runs) // 2]
    simulated = [int(n) for n in args.simulated.split(",")]
    small = driver_seconds[widths[0]]

    def simulated_run(n_workers: int, seconds: float) -> Measured:
        return simulate(n_workers, N_STEPS * pause, seconds, args.network / 1000)

    rows = []
    for n_workers in sorted({*real, *simulated}):
        limit = n_workers / pause
        model = simulated_run(n_workers, small)
        measured = real.get(n_workers)
        cells = (
            ["-"] * 3
            if measured is None
            else [f"{measured.rate:,.0f}", f"{measured.rate / limit:.0%}", f"{measured.staleness:.1f}"]
        )
        rows.append([f"{n_workers:,}", *cells, f"{model.rate:,.0f}", f"{model.rate / limit:.0%}", f"{model.staleness:.1f}"])

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        n = sorted({*real, *simulated})
        axes.plot(n, [n_workers / pause for n_workers in n], ":", color="black", label="no worker waits")
        for width, seconds in driver_seconds.items():
            label = f"simulated, {counts[width]:,} parameters, {seconds * 1e3:.2f} ms per rollout"
            axes.plot(n, [simulated_run(n_workers, seconds).rate for n_workers in n], label=label)
        axes.plot(list(real), [run.rate for run in real.values()], "o", color="C0", label="measured")
        axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="steps/s")
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)

    costs = ", ".join(
        f"{seconds * 1e3:.2f} ms with {counts[width]:,} parameters ({8 * counts[width] / 1e6:.2g} MB)"
        for width, seconds in driver_seconds.items()
    )
    report(
        args,
        "Workers on Ray",
        ["Workers", "Steps/s", "Of the limit", "Staleness", "Simulated steps/s", "Of the limit", "Staleness"],
        rows,
        [
            f"Each step waits {args.pause:g} ms, and a rollout has {N_STEPS} steps. Staleness is the mean number of updates "
            "between a worker's pull and its push.",
            f"Time of the driver per rollout, with the bytes of a vector there and back in brackets: {costs}. This is the "
            "processor time of all its threads. Some of them run at the same time, so a real driver is a little faster.",
            f"The simulation is of nodes with enough cores, {args.network:g} ms per message each way, and the smallest "
            "policy.",
        ],
        draw,
    )


if __name__ == "__main__":
    main()
