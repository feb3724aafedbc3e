"""
Returns of A3C with an LSTM, A3C without one, and RecurrentPPO, on tasks that need a memory: a cue to be remembered for 20 or
50 steps, and CartPole without velocities. Without an LSTM, A3C learns none of them. RecurrentPPO learns the cues from fewer
steps, and A3C makes many more steps per second.

The tasks are in ``benchmarks/memory_envs.py``, and the settings in ``benchmarks/settings/a3c_lstm.yml`` and
``recurrent_ppo.yml``. A3C without an LSTM has the settings of A3C with one, but an MlpPolicy. All LSTMs begin with open forget
gates. Finished runs are kept in the folder ``--runs`` and not repeated.

    python benchmarks/memory_tasks.py
    python benchmarks/memory_tasks.py --tasks Cue20-v0
"""

from pathlib import Path

from arguments import Option, parse_arguments
from learning import (
    HEADER,
    NOTE_ON_AFTER,
    SETTINGS,
    cells,
    curves,
    folder,
    note_on_reached,
    note_on_returns,
    runs_option,
    tasks_option,
    write_settings,
)
from memory_envs import TASKS
from report import report

from sb3_a3c.compare import compare
from sb3_a3c.comparison.estimates import Summary
from sb3_a3c.comparison.settings import read_settings

#: How ``sb3_a3c.compare`` names the algorithms, and what they are called here.
_ALGORITHMS = {
    "memory_envs:A3CLstm": "A3C, LSTM",
    "a3c": "A3C, no LSTM",
    "memory_envs:RecurrentPPOLstm": "RecurrentPPO",
}


def learn(env_id: str, seeds: int, budget: float, runs: Path, quick: bool) -> list[Summary]:
    """
    :param env_id: One of ``TASKS``
    :param seeds: Runs per algorithm
    :param budget: Fraction of the settings' steps
    :param runs: The folder for all comparisons
    :param quick: Whether this is a quick run, which shows no progress
    :return: What came of each algorithm
    """
    with_lstm = read_settings(SETTINGS / "a3c_lstm.yml", env_id)
    policy_kwargs = "dict(optimizer_class=th.optim.Adam)"
    settings = {
        "memory_envs:A3CLstm": with_lstm,
        "a3c": with_lstm | dict(policy="MlpPolicy", policy_kwargs=policy_kwargs),
        "memory_envs:RecurrentPPOLstm": read_settings(SETTINGS / "recurrent_ppo.yml", env_id),
    }
    files: dict[str, Path] = {}
    for algorithm, values in settings.items():
        values["n_timesteps"] = max(1, int(budget * values["n_timesteps"]))
        files[algorithm] = write_settings(runs / f"{env_id}-{_ALGORITHMS[algorithm]}.yml", env_id, values)
    name, out = f"memory_envs:{env_id}", runs / env_id
    return compare(
        name,
        list(_ALGORITHMS),
        seeds,
        out=out,
        settings=files,
        n_eval_episodes=5 if quick else 20,
        progress_bar=not quick,
    )


def main() -> None:
    args = parse_arguments(
        __doc__,
        repetitions=5,
        tasks=tasks_option(TASKS, quick="Cue20-v0"),
        budget=Option(1.0, 0.05, "fraction of the settings' steps"),
        runs=runs_option("memory_tasks"),
    )
    with folder(args.runs) as runs:
        summaries = {
            env_id: learn(env_id, args.repetitions, args.budget, runs, args.quick) for env_id in args.tasks.split(",")
        }
    rows = [cells(env_id, _ALGORITHMS, summary, of_task[0]) for env_id, of_task in summaries.items() for summary in of_task]
    notes = [
        f"{note_on_returns(args.repetitions)} Steps/s: interquartile means, on one core. In A3C's time: the return after as "
        "many seconds as A3C with an LSTM took for all its steps.",
        "A policy without a memory answers half of the cues, so its mean return is 0.5. An evaluation has 20 episodes. "
        f"{note_on_reached(summaries)} {NOTE_ON_AFTER}",
    ]
    report(args, "Tasks that need a memory", HEADER, rows, notes, lambda figure: curves(summaries, _ALGORITHMS, figure))


if __name__ == "__main__":
    main()
