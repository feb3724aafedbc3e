"""One run: an algorithm learns with one seed, and its checkpoints are evaluated afterwards."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_a3c.comparison.checkpoints import Checkpoint, Checkpoints
from sb3_a3c.comparison.provenance import Provenance
from sb3_a3c.comparison.settings import Settings, make_env, make_model
from sb3_a3c.comparison.step_counts import StepCounts

#: Distance between the seeds of evaluation. Each environment has the seed of the one before it plus one, and no two
#: evaluations may share a seed. Chosen arbitrarily, larger than any number of seeds.
_SEED_STEP = 1_000_000
#: Environments evaluated at once. Chosen arbitrarily: a policy computes ten observations nearly as fast as one.
_MAX_EVAL_ENVS = 10


@dataclass(frozen=True)
class RunSpec:
    """Everything that defines a run. Two runs with the same spec differ only by chance and machine."""

    env: str
    algorithm: str
    seed: int
    timesteps: int
    settings: Settings
    eval_interval: int
    n_eval_episodes: int
    num_threads: int

    @property
    def name(self) -> str:
        """For example "a3c seed 0"."""
        return f"{self.algorithm} seed {self.seed}"


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of episodes, with the policy as it was after so many steps and seconds of training."""

    timesteps: int
    seconds: float
    returns: list[float]
    lengths: list[int]

    @property
    def mean_return(self) -> float:
        """The mean over the episodes."""
        return fmean(self.returns)


@dataclass(frozen=True)
class RunResult:
    """
    :param spec: What the run was
    :param evaluations: Its evaluations, from the policy before training to the one at the end
    :param copying_seconds: Seconds of training spent copying the policy
    :param wall_seconds: Seconds of training and evaluation together
    :param load_before: The machine's load when training began, averaged over a minute; ``load_after`` when it ended
    :param provenance: Machine and versions
    """

    spec: RunSpec
    evaluations: list[Evaluation]
    copying_seconds: float
    wall_seconds: float
    load_before: float
    load_after: float
    provenance: Provenance

    @property
    def last(self) -> Evaluation:
        """The evaluation at the end of training."""
        return self.evaluations[-1]

    @property
    def steps_per_second(self) -> float:
        """Steps per second of training."""
        return self.last.timesteps / self.last.seconds


@dataclass(frozen=True)
class Stage:
    """A run "starts", "learns" or "is evaluated", and a fraction of that is done."""

    name: str
    fraction: float


def carry_out(spec: RunSpec, provenance: Provenance, report: Callable[[Stage], None]) -> RunResult:
    """Make a run and return its result. ``report`` is called with its stage now and then."""
    began = time.perf_counter()
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
    wall_seconds = time.perf_counter() - began
    return RunResult(spec, evaluations, checkpoints.copying_seconds, wall_seconds, load_before, load_after, provenance)


def eval_seed(seed: int) -> int:
    """Return the seed of evaluation for a seed of training."""
    return (seed + 1) * _SEED_STEP


def _evaluate(model: BaseAlgorithm, env: VecEnv, checkpoint: Checkpoint, spec: RunSpec) -> Evaluation:
    """Evaluate a checkpoint. All evaluations of a seed have the same starts, for every algorithm."""
    model.policy.load_state_dict(checkpoint.parameters)
    vec_normalize = unwrap_vec_normalize(env)
    if vec_normalize is not None and checkpoint.obs_rms is not None:
        vec_normalize.obs_rms = checkpoint.obs_rms
    env.seed(eval_seed(spec.seed))
    returns, lengths = evaluate_policy(model, env, spec.n_eval_episodes, deterministic=True, return_episode_rewards=True)
    assert isinstance(returns, list) and isinstance(lengths, list)
    return Evaluation(checkpoint.timesteps, checkpoint.seconds, list(map(float, returns)), list(map(int, lengths)))
