"""One run: an algorithm learns with one seed, and its checkpoints are evaluated when it has."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import fmean, pstdev
from typing import Any, Self

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_a3c.comparison.checkpoints import Checkpoint, Checkpoints
from sb3_a3c.comparison.provenance import Provenance
from sb3_a3c.comparison.settings import Settings, make_env, make_model
from sb3_a3c.comparison.step_counts import StepCounts

#: Between the seeds of training, and of each run's evaluation. Out of the air, but more than anybody's number of seeds: each
#: environment has a seed of its own, one more than the one before it, and no two evaluations are to have the same.
_SEED_STEP = 1_000_000
#: Environments that are evaluated in at once. Out of the air: a policy computes ten observations nearly as fast as one.
_MAX_EVAL_ENVS = 10


@dataclass(frozen=True)
class RunSpec:
    """
    What a run is; two with the same spec differ by chance and machine alone.

    :param env: The environment's id
    :param algorithm: The algorithm's name
    :param seed: The seed of training; that of evaluation follows from it
    :param timesteps: Steps to learn from
    :param settings: The algorithm's settings
    :param eval_interval: Steps between two evaluations
    :param n_eval_episodes: Episodes of an evaluation
    :param num_threads: Threads that torch may use
    """

    env: str
    algorithm: str
    seed: int
    timesteps: int
    settings: Settings
    eval_interval: int
    n_eval_episodes: int
    num_threads: int


@dataclass(frozen=True)
class Evaluation:
    """
    :param timesteps: Steps that had been made when the policy was as it is here
    :param seconds: Seconds that it had learned for by then
    :param returns: The return of each episode, in the environment's own rewards
    :param lengths: The length of each episode
    """

    timesteps: int
    seconds: float
    returns: list[float]
    lengths: list[int]

    @property
    def mean_return(self) -> float:
        """The mean over the episodes."""
        return fmean(self.returns)

    @property
    def std_return(self) -> float:
        """The standard deviation over the episodes."""
        return pstdev(self.returns)


@dataclass(frozen=True)
class RunResult:
    """
    :param spec: What the run was
    :param evaluations: Its evaluations, the first of the policy that had not learned, the last of the one at the end
    :param copying_seconds: Seconds of the training that went into keeping the checkpoints
    :param wall_seconds: Seconds of training and evaluation together
    :param load_before: The machine's load when training began: its processes that ran or wanted to, averaged over a minute
    :param load_after: The machine's load when training ended
    :param provenance: With what and where it ran
    """

    spec: RunSpec
    evaluations: list[Evaluation]
    copying_seconds: float
    wall_seconds: float
    load_before: float
    load_after: float
    provenance: Provenance

    @property
    def steps_per_second(self) -> float:
        """Of training alone."""
        return self.evaluations[-1].timesteps / self.evaluations[-1].seconds

    def as_dict(self) -> dict[str, Any]:
        """Plain values, which :meth:`from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """
        :param values: What :meth:`as_dict` gave
        :return: The result
        """
        parts = {
            "spec": RunSpec(**values["spec"]),
            "evaluations": [Evaluation(**evaluation) for evaluation in values["evaluations"]],
            "provenance": Provenance(**values["provenance"]),
        }
        return cls(**{**values, **parts})


@dataclass(frozen=True)
class Stage:
    """
    How far a run is.

    :param name: "starts", "learns" or "is evaluated"
    :param fraction: How much of that is done
    """

    name: str
    fraction: float


def carry_out(spec: RunSpec, provenance: Provenance, report: Callable[[Stage], None]) -> RunResult:
    """
    :param spec: The run
    :param provenance: With what and where it runs
    :param report: Told how far it is, now and then
    :return: Its result
    """
    begun = time.perf_counter()
    th.set_num_threads(spec.num_threads)
    n_envs = spec.settings["n_envs"]
    with StepCounts(n_envs) as step_counts:
        env = make_env(spec.env, spec.settings, n_envs, spec.seed, outermost=step_counts.wrap)
        model = make_model(spec.algorithm, env, spec.settings, spec.seed)
        checkpoints = Checkpoints(
            spec.eval_interval, step_counts, lambda steps: report(Stage("learns", min(steps / spec.timesteps, 1.0)))
        )
        load_before = os.getloadavg()[0]
        checkpoints.learn(model, spec.timesteps)
        load_after = os.getloadavg()[0]
        env.close()

    n_eval_envs = min(spec.n_eval_episodes, _MAX_EVAL_ENVS)
    eval_env = make_env(spec.env, spec.settings, n_eval_envs, eval_seed(spec.seed), training=False)
    evaluations = []
    for index, checkpoint in enumerate(checkpoints.taken):
        report(Stage("is evaluated", index / len(checkpoints.taken)))
        evaluations.append(_evaluate(model, eval_env, checkpoint, spec))
    eval_env.close()
    wall_seconds = time.perf_counter() - begun
    return RunResult(spec, evaluations, checkpoints.copying, wall_seconds, load_before, load_after, provenance)


def eval_seed(seed: int) -> int:
    """
    :param seed: The seed of training
    :return: That of evaluation
    """
    return (seed + 1) * _SEED_STEP


def _evaluate(model: BaseAlgorithm, env: VecEnv, checkpoint: Checkpoint, spec: RunSpec) -> Evaluation:
    """Each evaluation of a seed has the same episodes before it, whatever the algorithm."""
    model.policy.load_state_dict(checkpoint.parameters)
    vec_normalize = unwrap_vec_normalize(env)
    if vec_normalize is not None and checkpoint.obs_rms is not None:
        vec_normalize.obs_rms = checkpoint.obs_rms
    env.seed(eval_seed(spec.seed))
    returns, lengths = evaluate_policy(model, env, spec.n_eval_episodes, deterministic=True, return_episode_rewards=True)
    assert isinstance(returns, list) and isinstance(lengths, list)
    return Evaluation(
        checkpoint.timesteps, checkpoint.seconds, [float(value) for value in returns], [int(value) for value in lengths]
    )
