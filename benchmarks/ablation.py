"""
What single settings of A3C contribute on Pendulum, CartPole and LunarLanderContinuous: returns with the settings of the zoo,
and with one of them replaced at a time. Pendulum needs VecNormalize, gSDE and a learning rate that falls.
LunarLanderContinuous needs long rollouts and no orthogonal initialization, and gains from VecNormalize and gSDE. After the
same steps, one worker reaches less than two on CartPole and LunarLanderContinuous, and eight reach as much or more. GAE,
normalized advantages and the optimizer make no difference that three seeds could show.

The settings are those of ``sb3_a3c/zoo/a3c.yml``. Each row replaces what its name says and leaves all others as they are, also
the number of steps; it is not tuned again around the new value. Each row is a comparison by ``sb3_a3c.compare`` with itself
alone. Finished runs are not repeated, so the command can be interrupted and continued.

    python benchmarks/ablation.py
    python benchmarks/ablation.py --tasks LunarLanderContinuous-v3
"""

import argparse
import re
from pathlib import Path
from typing import Any

from arguments import Option, parse_arguments
from learning import (
    available,
    folder,
    note_on_reached,
    note_on_returns,
    reached,
    runs_option,
    tasks_option,
    train,
    write_settings,
)
from report import bars, report

from sb3_a3c.comparison.cells import number, of_seeds
from sb3_a3c.comparison.estimates import Summary
from sb3_a3c.comparison.settings import read_settings
from sb3_a3c.zoo.models import SETTINGS

_UNCHANGED = "the zoo's settings"
#: What is replaced on every task, by the names of the table's rows.
_ON_ALL: dict[str, dict[str, Any]] = {
    _UNCHANGED: {},
    "one worker": dict(n_workers=1, backend="serial"),
    "eight workers": dict(n_workers=8),
    "no GAE": dict(gae_lambda=1.0),
    "normalized advantages": dict(normalize_advantage=True),
}
#: The same for each task.
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "Pendulum-v1": {
        **_ON_ALL,
        "n_steps 16": dict(n_steps=16),
        "no gSDE": dict(use_sde=False),
        "no VecNormalize": dict(normalize=False),
        "constant learning rate": dict(learning_rate=1e-3),
        "Adam": dict(use_rms_prop=False),
    },
    "CartPole-v1": {
        **_ON_ALL,
        "n_steps 5": dict(n_steps=5),
        "no entropy bonus": dict(ent_coef=0.0),
        "constant learning rate": dict(learning_rate=1.5e-3),
        "RMSprop": dict(use_rms_prop=True),
        "no orthogonal initialization": dict(policy_kwargs="dict(ortho_init=False)"),
    },
    "LunarLanderContinuous-v3": {
        **_ON_ALL,
        "n_steps 8": dict(n_steps=8),
        "gamma 0.99": dict(gamma=0.99),
        "no gSDE": dict(use_sde=False),
        "no VecNormalize": dict(normalize=False),
        "constant learning rate": dict(learning_rate=7e-4),
        "Adam": dict(use_rms_prop=False),
        "orthogonal initialization": dict(policy_kwargs="dict(log_std_init=-1, activation_fn=nn.ReLU)"),
    },
}

HEADER = ["Task", "Settings", "Final return", "Reached", "Seconds"]


def learn(env_id: str, changes: dict[str, Any], args: argparse.Namespace, out: Path) -> Summary:
    """
    :param env_id: A key of ``CHANGES``
    :param changes: Settings to replace
    :param args: The command line
    :param out: The folder for the comparison
    :return: What came of it
    """
    settings = read_settings(SETTINGS, env_id) | changes
    path = write_settings(out / "settings.yml", env_id, settings)
    n_timesteps = max(1, int(settings["n_timesteps"] * args.budget))
    (summary,) = train(env_id, {"a3c": path}, n_timesteps, args.repetitions, args, out / "runs")
    return summary


def main() -> None:
    args = parse_arguments(
        __doc__,
        repetitions=5,
        tasks=tasks_option(CHANGES),
        budget=Option(1.0, 0.002, "fraction of the steps of the settings"),
        evaluations=Option(4, 1, "per run"),
        only=Option("", "one worker", "pattern of what to measure beside the zoo's settings; all if empty"),
        runs=runs_option("ablation"),
    )
    summaries: dict[str, dict[str, Summary]] = {env_id: {} for env_id in available(args.tasks)}
    with folder(args.runs) as runs:
        for env_id, of_task in summaries.items():
            for name, changes in CHANGES[env_id].items():
                if name != _UNCHANGED and not re.search(args.only, name):
                    continue
                of_task[name] = learn(env_id, changes, args, runs / env_id / name.replace(" ", "_").replace("'", ""))
    rows = [
        [
            env_id,
            name,
            of_seeds(summary.final_return),
            reached(summary),
            number(float(summary.seconds.iqm)),
        ]
        for env_id, of_task in summaries.items()
        for name, summary in of_task.items()
    ]
    notes = [
        f"{note_on_returns(args.repetitions)} {args.evaluations} evaluations per run. Seconds of ``learn()``.",
        note_on_reached({env_id: list(of_task.values()) for env_id, of_task in summaries.items()}),
    ]
    panels = {
        env_id: {name: float(summary.final_return.iqm) for name, summary in of_task.items()}
        for env_id, of_task in summaries.items()
    }
    report(args, "Settings, one at a time", HEADER, rows, notes, bars(panels, "final return", share_x=False))


if __name__ == "__main__":
    main()
