"""What a comparison writes when its runs are finished: tables, and a report in Markdown and in HTML."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from sb3_a3c.comparison.arguments import Arguments
from sb3_a3c.comparison.cells import median_and_range, number, of_seeds
from sb3_a3c.comparison.estimates import AXES, MIN_SEEDS, Summary, learning_curve
from sb3_a3c.comparison.figure import draw
from sb3_a3c.system.cores import usable_cores


def write_tables(summaries: Sequence[Summary], out: Path) -> None:
    """Write ``evaluations.csv`` (one row per episode), ``runs.csv`` (one row per run) and ``curves.csv``."""
    evaluations = pd.DataFrame(
        dict(
            env=result.spec.env,
            algorithm=result.spec.algorithm,
            seed=result.spec.seed,
            **asdict(evaluation),
            episode=range(len(evaluation.returns)),
        )
        for summary in summaries
        for result in summary.results
        for evaluation in result.evaluations
    )
    evaluations = evaluations.explode(["returns", "lengths", "episode"])
    evaluations = evaluations.rename(columns={"returns": "episode_return", "lengths": "episode_length"})
    curves = pd.concat(
        pd.DataFrame(dict(algorithm=summary.algorithm, axis=axis, at=at, iqm=curve.iqm, low=curve.low, high=curve.high))
        for summary in summaries
        for axis in AXES
        for at, curve in [learning_curve(summary.results, axis)]
    )
    curves.insert(0, "env", summaries[0].results[0].spec.env)
    for name, table in {"evaluations": evaluations, "runs": runs_table(summaries), "curves": curves}.items():
        table.to_csv(out / f"{name}.csv", index=False, na_rep="nan")


def runs_table(summaries: Sequence[Summary]) -> pd.DataFrame:
    """Return one row per run."""
    table = pd.DataFrame(
        dict(
            env=result.spec.env,
            algorithm=result.spec.algorithm,
            seed=result.spec.seed,
            n_envs=result.spec.settings["n_envs"],
            timesteps=result.last.timesteps,
            seconds=result.last.seconds,
            steps_per_second=result.steps_per_second,
            copying_seconds=result.copying_seconds,
            wall_seconds=result.wall_seconds,
            final_return=result.last.mean_return,
            final_std=np.std(result.last.returns),
            load_before=result.load_before,
            load_after=result.load_after,
            **asdict(result.provenance),
        )
        for summary in summaries
        for result in summary.results
    )
    if summaries[0].threshold is not None:
        table["threshold"] = summaries[0].threshold
        table["steps_to_threshold"] = np.concatenate([summary.steps_to_threshold for summary in summaries])
        table["seconds_to_threshold"] = np.concatenate([summary.seconds_to_threshold for summary in summaries])
    return table


def results_table(summaries: Sequence[Summary]) -> pd.DataFrame:
    """Return the main table as text, one row per algorithm."""
    table = pd.DataFrame(
        {
            "Algorithm": summary.algorithm,
            "Seeds": str(len(summary.results)),
            "Steps": number(summary.results[0].last.timesteps),
            "Final return": of_seeds(summary.final_return),
            "Steps/s": of_seeds(summary.steps_per_second),
            "Seconds": of_seeds(summary.seconds),
        }
        for summary in summaries
    )
    threshold = summaries[0].threshold
    if threshold is not None:
        table[f"Reached {threshold:g}"] = [f"{summary.n_reached} of {len(summary.results)}" for summary in summaries]
        table["after seconds"] = [median_and_range(summary.seconds_to_threshold) for summary in summaries]
        table["after steps"] = [median_and_range(summary.steps_to_threshold) for summary in summaries]
    return table


def write_report(arguments: Arguments, summaries: Sequence[Summary], failures: Mapping[str, str], out: Path) -> None:
    """Write ``report.md`` with its picture, and ``report.html``, which contains it. ``failures`` are reasons by run."""
    picture = draw(summaries, summaries[0].threshold)
    (out / "learning_curves.png").write_bytes(picture)
    runs = runs_table(summaries)
    settings = {summary.algorithm: summary.results[0].spec.settings for summary in summaries}
    files = arguments.settings
    values = dict(
        arguments=arguments,
        failures=failures,
        runs=runs,
        first_runs=runs.drop_duplicates("algorithm").set_index("algorithm"),
        ratios=_ratios_to_the_first(runs),
        threshold=summaries[0].threshold,
        eval_intervals=sorted({result.spec.eval_interval for summary in summaries for result in summary.results}),
        sources=[f"{a}: {f'the settings in {files[a]}' if a in files else 'its defaults'}" for a in arguments.algos],
        settings=yaml.safe_dump(settings, sort_keys=False).rstrip(),
        has_intervals=min(len(summary.results) for summary in summaries) >= MIN_SEEDS,
        min_seeds=MIN_SEEDS,
        cores=usable_cores(),
        results_table=results_table(summaries),
        runs_table=_readable(runs),
        picture=base64.b64encode(picture).decode(),
    )
    for suffix in ("md", "html"):
        templates = Environment(
            loader=PackageLoader("sb3_a3c.comparison"),
            autoescape=suffix == "html",
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        page = templates.get_template("report.jinja").render(values, format=f"{suffix}.jinja")
        (out / f"report.{suffix}").write_text(re.sub(r"\n{3,}", "\n\n", page).strip() + "\n", encoding="utf-8")


def _readable(runs: pd.DataFrame) -> pd.DataFrame:
    """The table of all runs as text."""
    titles = {
        "timesteps": "Steps",
        "seconds": "Seconds",
        "steps_per_second": "Steps/s",
        "final_return": "Final return",
        "final_std": "± over episodes",
        "seconds_to_threshold": "seconds to threshold",
        "steps_to_threshold": "steps to threshold",
    }
    table = runs[[column for column in titles if column in runs]].map(number).rename(columns=titles)
    table.insert(0, "Run", runs["algorithm"] + " seed " + runs["seed"].astype(str))
    return table


def _ratios_to_the_first(runs: pd.DataFrame) -> pd.DataFrame:
    """The median seconds and steps to the threshold, divided by those of the first algorithm that reached it."""
    if "threshold" not in runs:
        return pd.DataFrame()
    medians = runs.groupby("algorithm", sort=False)[["seconds_to_threshold", "steps_to_threshold"]].median()
    medians = medians[medians["seconds_to_threshold"].between(0, np.inf, inclusive="neither")]
    return medians / medians.iloc[:1].to_numpy() if len(medians) else medians
