"""
How long it takes until a known task is solved: A3C beside A2C and PPO, with the settings of rl-baselines3-zoo.

Those and A3C's are in ``settings.py``. Now and then a callback sets aside a copy of the policy, and when that was. After
learning, the copies are evaluated one after another without noise, each in the same 20 episodes that it has not seen, and the
first that reaches the threshold says when the task was solved. So the clock, which starts with ``learn()``, counts learning
and nothing else, and A3C's workers do not learn on in secret while others evaluate. Its steps are those that callbacks had
seen by then; its workers may be up to ``max_lead`` rollouts further. Learning ends where the last 100 episodes of training,
which have noise, reach the threshold in the mean, or with the setting's budget.

    python benchmarks/solved.py
"""

import math
import statistics
import time
from contextlib import closing
from copy import deepcopy
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch as th
from arguments import Option, parse_arguments
from report import bars, report
from settings import TASKS, Setting, Task
from speed import preload
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_a3c import A3C

ALGORITHMS: dict[str, type[OnPolicyAlgorithm]] = {"A3C": A3C, "A2C": A2C, "PPO": PPO, "A2C with A3C's settings": A2C}
N_EPISODES = 20


class Solved(NamedTuple):
    """When a task was solved, infinite: never."""

    seconds: float
    n_steps: float


NEVER = Solved(math.inf, math.inf)


class Snapshot(NamedTuple):
    """
    A policy at some time.

    :param when: The time
    :param parameters: The policy's state
    :param obs_rms: The statistics of the observations that it has been shown, None: it is shown them as they are
    """

    when: Solved
    parameters: dict[str, th.Tensor]
    obs_rms: RunningMeanStd | None


class SnapshotCallback(BaseCallback):
    """
    Copies the policy between two rollouts, and ends learning when training's own episodes say that it is solved.

    :param task: The task
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.snapshots: list[Snapshot] = []
        self._task = task
        self._next = 0
        self._started = time.monotonic()  # of learn(), which comes next

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps >= self._next:
            self._copy()

    def _on_step(self) -> bool:
        episodes = self.model.ep_info_buffer
        assert episodes is not None
        if len(episodes) < (episodes.maxlen or 0):
            return True
        return bool(np.mean([episode["r"] for episode in episodes]) < self._task.threshold)

    def _on_training_end(self) -> None:
        self._copy()

    def _copy(self) -> None:
        when = Solved(time.monotonic() - self._started, self.model.num_timesteps)
        parameters = {name: tensor.clone() for name, tensor in self.model.policy.state_dict().items()}
        normalization = self.model.get_vec_normalize_env()
        obs_rms = None if normalization is None else deepcopy(normalization.obs_rms)
        self.snapshots.append(Snapshot(when, parameters, obs_rms))  # type: ignore[arg-type]
        self._next = self.model.num_timesteps + self._task.interval


def make_env(env_id: str, n_envs: int, seed: int, setting: Setting) -> VecEnv:
    """
    :param env_id: The environment
    :param n_envs: How many of it
    :param seed: Their seed
    :param setting: The setting, which says whether they are normalized
    :return: They
    """
    # Else it would be "rgb_array", for which LunarLander makes ever more particles.
    env = make_vec_env(env_id, n_envs=n_envs, seed=seed, env_kwargs=dict(render_mode=None))
    return VecNormalize(env, gamma=setting.kwargs.get("gamma", 0.99)) if setting.normalize else env


def learn(env_id: str, algorithm: str, seed: int, budget: float) -> Solved:
    """
    :param env_id: A key of ``TASKS``
    :param algorithm: A key of ``ALGORITHMS``
    :param seed: The model's seed
    :param budget: Which part of the setting's steps it may make
    :return: When it had solved the task
    """
    task = TASKS[env_id]
    setting = task.settings[algorithm]
    with closing(make_env(env_id, setting.n_envs, seed, setting)) as env:
        kwargs = deepcopy(setting.kwargs)  # SB3 adds to policy_kwargs
        model = ALGORITHMS[algorithm]("MlpPolicy", env, seed=seed, device="cpu", **kwargs)  # type: ignore[arg-type]
        callback = SnapshotCallback(task)
        model.learn(max(1, int(setting.n_timesteps * budget)), callback)
    with closing(make_env(env_id, N_EPISODES, 0, setting)) as eval_env:
        return next(
            (snapshot.when for snapshot in callback.snapshots if evaluate(model, snapshot, eval_env) >= task.threshold), NEVER
        )


def evaluate(model: OnPolicyAlgorithm, snapshot: Snapshot, eval_env: VecEnv) -> float:
    """
    :param model: A model that is done with learning; its policy becomes the snapshot's
    :param snapshot: What to evaluate
    :param eval_env: As many environments as there are episodes
    :return: The mean return
    """
    model.policy.load_state_dict(snapshot.parameters)
    if isinstance(eval_env, VecNormalize):
        assert snapshot.obs_rms is not None
        eval_env.obs_rms = snapshot.obs_rms  # type: ignore[assignment]
        eval_env.training = eval_env.norm_reward = False
    eval_env.seed(1_000_000)
    mean_return, _ = evaluate_policy(model, eval_env, N_EPISODES)
    return float(mean_return)  # type: ignore[arg-type]


def cells(env_id: str, algorithm: str, runs: list[Solved], a3c_runs: list[Solved]) -> list[str]:
    """
    :param env_id: A key of ``TASKS``
    :param algorithm: A key of ``ALGORITHMS``
    :param runs: Its runs, one a seed
    :param a3c_runs: A3C's
    :return: A row of the table
    """
    seconds, n_steps, a3c_seconds = (
        statistics.median(numbers)
        for numbers in ([run.seconds for run in runs], [run.n_steps for run in runs], [run.seconds for run in a3c_runs])
    )
    solved = f"{sum(run != NEVER for run in runs)} of {len(runs)}"
    times = f"{seconds / a3c_seconds:.1f}" if math.isfinite(seconds) and math.isfinite(a3c_seconds) else "-"
    figures = [f"{seconds:.1f}", f"{n_steps:,.0f}"] if math.isfinite(seconds) else ["-", "-"]
    return [env_id, algorithm, solved, *figures, times]


def main() -> None:
    args = parse_arguments(
        __doc__,
        tasks=Option(",".join(TASKS), "Pendulum-v1", "ids of environments, with commas"),
        algorithms=Option(",".join(ALGORITHMS), ",".join(ALGORITHMS), "which, with commas; A3C first"),
        budget=Option(1.0, 0.002, "which part of the settings' steps to make at most"),
    )
    preload()
    th.set_num_threads(1)  # for all: to divide so small a network among threads only costs time
    tasks = [env_id for env_id in args.tasks.split(",") if "Lunar" not in env_id or find_spec("Box2D")]
    algorithms = {env_id: [name for name in args.algorithms.split(",") if name in TASKS[env_id].settings] for env_id in tasks}
    runs: dict[tuple[str, str], list[Solved]] = {(env_id, name): [] for env_id in tasks for name in algorithms[env_id]}
    for env_id in tasks:
        learn(env_id, "A3C", 0, 0.0)  # compiles, or reads what was compiled
        for seed in range(args.repetitions):
            for algorithm in algorithms[env_id]:
                runs[env_id, algorithm].append(learn(env_id, algorithm, seed, args.budget))
    rows = [cells(env_id, name, measured, runs[env_id, "A3C"]) for (env_id, name), measured in runs.items()]
    notes = [
        f"Medians of {args.repetitions} seed(s). A task is solved when a policy's mean return in {N_EPISODES} episodes is "
        + ", ".join(f"{TASKS[env_id].threshold:g} ({env_id})" for env_id in tasks)
        + ". Not solved: -."
    ]
    if left_out := set(args.tasks.split(",")) - set(tasks):
        notes.append(f"Left out, for Box2D is not installed: {', '.join(left_out)}.")
    panels: dict[str, dict[str, float]] = {env_id: {} for env_id in tasks}
    for (env_id, name), measured in runs.items():
        seconds = statistics.median(run.seconds for run in measured)
        panels[env_id][name if math.isfinite(seconds) else f"{name} (not solved)"] = seconds if math.isfinite(seconds) else 0.0
    header = ["Task", "Algorithm", "Solved", "Seconds", "Steps", "By A3C's seconds"]
    report(args, "Time to a solved task", header, rows, notes, bars(panels, "seconds", share_x=False))


if __name__ == "__main__":
    main()
