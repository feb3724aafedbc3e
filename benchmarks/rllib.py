"""
A3C on Ray beside RLlib's IMPALA and APPO, with as many runners: steps/s, and seconds to a solved CartPole-v1.

It is solved when the mean return of 20 evaluation episodes with the most probable actions is 475. Evaluations are made every
half second, and the clock stands still meanwhile. It starts when all workers are there. All have two layers of 64 tanh units.
RLlib has the settings of its own examples for CartPole, with which policy and value share layers; A3C has those of
``benchmarks/settings/a3c.yml``, with separate networks. RLlib is not among the requirements of this project, because it needs
another version of gymnasium. In an environment of its own::

    pip install 'ray[rllib]==2.60.0' '.[compare]'
    python benchmarks/rllib.py
"""

import logging
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
import ray
import torch as th
from arguments import Option, parse_arguments
from report import bars, report
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_a3c import A3C, register_callback

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

THRESHOLD = 475.0
N_EVAL_EPISODES = 20
#: Seconds of learning between two evaluations.
EVALUATE_EVERY = 0.5
#: Steps of a run of A3C, whose learning rate is 0 in the end.
N_TIMESTEPS = 200_000


class Run(NamedTuple):
    """
    :param seconds: Seconds of learning until CartPole was solved, None: it was not
    :param n_steps: Steps until then
    :param rate: Steps/s
    """

    seconds: float | None
    n_steps: int
    rate: float


class Clock:
    """
    Counts the seconds of learning.

    :param limit: After so many, a run ends
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._started = self._evaluated = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def is_due(self) -> bool:
        """Whether to evaluate."""
        return time.monotonic() - self._evaluated >= EVALUATE_EVERY

    def evaluate(self, evaluate: Callable[[], float], n_steps: int) -> Run | None:
        """
        :param evaluate: Returns the mean return of the evaluation's episodes
        :param n_steps: Steps so far
        :return: The run, if it has ended
        """
        seconds = self.seconds
        solved = evaluate() >= THRESHOLD
        self._evaluated = time.monotonic()
        self._started = self._evaluated - seconds
        if solved or seconds >= self.limit:
            return Run(seconds if solved else None, n_steps, n_steps / seconds)
        return None


class Evaluation(BaseCallback):
    """
    Evaluates the policy, and stops when CartPole is solved.

    :param limit: Seconds of learning after which to stop
    """

    def __init__(self, limit: float) -> None:
        super().__init__()
        self._limit = limit
        self._clock: Clock | None = None
        self.run: Run | None = None

    def looks(self, n_steps: int) -> bool:
        return self._clock is not None and self._clock.is_due

    def _on_step(self) -> bool:
        if self._clock is None:
            self._clock = Clock(self._limit)
        elif self._clock.is_due and self.n_calls % self.model.n_steps == 0:  # type: ignore[attr-defined]
            self.run = self._clock.evaluate(self._evaluate, self.num_timesteps)
        return self.run is None

    def _on_training_end(self) -> None:
        if self.run is None and self._clock is not None:
            self._clock.limit = 0.0
            self.run = self._clock.evaluate(self._evaluate, self.num_timesteps)

    def _evaluate(self) -> float:
        """All episodes at the same time."""
        env: Any = gym.make_vec("CartPole-v1", N_EVAL_EPISODES, vectorization_mode="vector_entry_point")
        obs, _ = env.reset(seed=0)
        returns, running = np.zeros(N_EVAL_EPISODES), np.ones(N_EVAL_EPISODES, bool)
        while running.any():
            obs, rewards, terminated, truncated, _ = env.step(self.model.predict(obs, deterministic=True)[0])
            returns += rewards * running
            running &= ~(terminated | truncated)
        return float(returns.mean())


register_callback(Evaluation, Evaluation.looks)


def learn_a3c(n_workers: int, seed: int, limit: float) -> Run:
    """
    :param n_workers: How many workers
    :param seed: The seed
    :param limit: Seconds of learning after which to stop
    :return: What was measured
    """
    env = make_vec_env("CartPole-v1", 4 * n_workers, seed=seed)
    model = A3C(
        "MlpPolicy",
        env,
        n_steps=8,
        gamma=0.98,
        gae_lambda=0.9,
        learning_rate=lambda remaining: 2e-3 * remaining,
        use_rms_prop=False,
        n_workers=n_workers,
        backend="ray",
        backend_kwargs=dict(num_cpus=0.5),
        seed=seed,
    )
    evaluation = Evaluation(limit)
    model.learn(N_TIMESTEPS, evaluation, log_interval=None)
    env.close()
    assert evaluation.run is not None
    return evaluation.run


def impala() -> "AlgorithmConfig":
    """
    :return: The settings of RLlib's example for CartPole
    """
    from ray.rllib.algorithms.impala import IMPALAConfig
    from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter

    return (
        IMPALAConfig()
        .env_runners(env_to_module_connector=lambda *args: MeanStdFilter())  # type: ignore[misc, arg-type]
        .training(
            train_batch_size_per_learner=500,
            grad_clip=40.0,
            grad_clip_by="global_norm",
            lr=0.0005,
            vf_loss_coeff=0.05,
            entropy_coeff=0.0,
        )
    )


def appo() -> "AlgorithmConfig":
    """
    :return: The settings of RLlib's example for CartPole
    """
    from ray.rllib.algorithms.appo import APPOConfig

    return APPOConfig().training(circular_buffer_iterations_per_batch=2, vf_loss_coeff=0.05, entropy_coeff=0.0)


def learn_rllib(make_config: "Callable[[], AlgorithmConfig]", n_workers: int, seed: int, limit: float) -> Run:
    """
    :param make_config: Returns the settings
    :param n_workers: How many processes step environments
    :param seed: The seed
    :param limit: Seconds of learning after which to stop
    :return: What was measured
    """
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    network = DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh", vf_share_layers=True)
    config = (
        make_config()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=n_workers, num_envs_per_env_runner=16, num_cpus_per_env_runner=1)
        .learners(num_learners=0)
        .rl_module(model_config=network)
        .reporting(min_time_s_per_iteration=EVALUATE_EVERY)
        .evaluation(
            evaluation_interval=1_000_000,  # never by itself
            evaluation_num_env_runners=0,
            evaluation_duration=N_EVAL_EPISODES,
            evaluation_config=dict(explore=False, num_envs_per_env_runner=N_EVAL_EPISODES, num_env_runners=0),
        )
        .debugging(seed=seed, log_level="ERROR")
    )
    algorithm = config.build_algo()

    def evaluate() -> float:
        return algorithm.evaluate()["env_runners"]["episode_return_mean"]

    def n_steps() -> int:
        return int(algorithm.train()["env_runners"].get("num_env_steps_sampled_lifetime", 0))

    while (first := n_steps()) == 0:  # its processes are starting
        pass
    run, clock = None, Clock(limit)
    while run is None:
        run = clock.evaluate(evaluate, n_steps() - first)
    algorithm.stop()
    return run


def main() -> None:
    args = parse_arguments(
        __doc__,
        workers=Option("2,4", "2", "workers, separated by commas"),
        seconds=Option(90.0, 1.0, "of learning after which a run ends"),
        algorithms=Option("A3C,APPO", "A3C,APPO", "some of A3C, APPO and IMPALA, separated by commas"),
    )
    th.set_num_threads(1)
    warnings.filterwarnings("ignore")  # RLlib's own
    logging.disable(logging.WARNING)
    ray.init("local", num_cpus=16, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    learners: dict[str, Callable[[int, int, float], Run]] = {
        "A3C": learn_a3c,
        "IMPALA": partial(learn_rllib, impala),
        "APPO": partial(learn_rllib, appo),
    }
    names = args.algorithms.split(",")
    counts = [int(n) for n in args.workers.split(",")]
    runs: dict[tuple[str, int], list[Run]] = {(name, n): [] for n in counts for name in names}
    for seed in range(args.repetitions):
        for (name, n_workers), of_seeds in runs.items():
            of_seeds.append(learners[name](n_workers, seed, args.seconds))
            print(f"{name}, {n_workers} workers, seed {seed}: {of_seeds[-1]}", flush=True)
    ray.shutdown()
    rates = {key: statistics.median(run.rate for run in of_seeds) for key, of_seeds in runs.items()}
    rows = [
        [
            f"{name}, {n_workers} workers",
            f"{rates[name, n_workers]:,.0f}",
            f"{sum(run.seconds is not None for run in of_seeds)} of {len(of_seeds)}",
            _range([run.seconds for run in of_seeds], "{:.1f}"),
            _range([None if run.seconds is None else run.n_steps for run in of_seeds], "{:,.0f}"),
        ]
        for (name, n_workers), of_seeds in runs.items()
    ]
    report(
        args,
        "A3C on Ray beside RLlib",
        ["Algorithm", "Steps/s", "Solved", "After seconds", "After steps"],
        rows,
        [
            f"Steps/s: medians over {args.repetitions} seed(s). Solved: a mean return of {THRESHOLD:g} in {N_EVAL_EPISODES} "
            "evaluation episodes. After: medians over the seeds (of two, the later), in brackets the minimum and the maximum; "
            f"a run that had not solved it in {args.seconds:g} s counts as later than all others. It is checked every "
            f"{EVALUATE_EVERY:g} s, so shorter times are not told apart.",
            f"A3C has 4 environments per worker, and its runs end after {N_TIMESTEPS:,} steps, where its learning rate is 0. "
            "RLlib has 16 environments per runner and one learner, as in its examples.",
            f"Ray {ray.__version__}.",
        ],
        bars(
            {"steps/s": {f"{name}, {n} workers": rate for (name, n), rate in rates.items()}},
            "steps/s",
        ),
    )


def _range(values: list[Any], form: str) -> str:
    """The median, and the minimum and maximum in brackets. None is later than all numbers."""
    ordered = sorted(float("inf") if value is None else value for value in values)
    cells = ["never" if value == float("inf") else form.format(value) for value in ordered]
    return f"{cells[len(cells) // 2]} [{cells[0]}, {cells[-1]}]"


if __name__ == "__main__":
    main()
