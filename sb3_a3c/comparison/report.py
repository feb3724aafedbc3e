"""What a comparison writes when its runs are finished: raw tables, and a report."""

import os
from collections.abc import Mapping, Sequence
from math import inf
from statistics import median

from sb3_a3c.comparison.cells import median_and_range, number, of_seeds
from sb3_a3c.comparison.estimates import AXES, MIN_SEEDS, Summary, learning_curve
from sb3_a3c.comparison.figure import draw
from sb3_a3c.comparison.pages import Bullets, Code, Heading, Paragraph, Part, Picture, Table, as_html, as_markdown
from sb3_a3c.comparison.plan import Plan
from sb3_a3c.comparison.run import RunResult
from sb3_a3c.comparison.store import Store
from sb3_a3c.system.cores import usable_cores

_PICTURE = "learning_curves.png"


def write_tables(plan: Plan, summaries: Sequence[Summary], store: Store) -> None:
    """
    Write ``evaluations.csv`` (a row an episode), ``runs.csv`` (a row a run) and ``curves.csv`` (what the picture shows).

    :param plan: The plan
    :param summaries: The algorithms
    :param store: The folder
    """
    env = plan.arguments.env
    results = [result for summary in summaries for result in summary.results]
    header = ["env", "algorithm", "seed", "timesteps", "seconds", "episode", "episode_return", "episode_length"]
    rows = [
        (env, result.spec.algorithm, result.spec.seed, at.timesteps, at.seconds, episode, episode_return, length)
        for result in results
        for at in result.evaluations
        for episode, (episode_return, length) in enumerate(zip(at.returns, at.lengths, strict=True))
    ]
    store.write_table("evaluations.csv", header, rows)
    header = ["env", "algorithm", "seed", "timesteps", "seconds", "steps_per_second", "copying_seconds", "final_return"]
    header += [] if plan.threshold is None else ["threshold", "steps_to_threshold", "seconds_to_threshold"]
    store.write_table("runs.csv", header, [row for summary in summaries for row in _run_rows(env, summary)])
    header = ["env", "algorithm", "axis", "at", "iqm", "low", "high"]
    curves = [(summary.algorithm, axis, learning_curve(summary.results, axis)) for summary in summaries for axis in AXES]
    points = [
        (env, algorithm, axis, *point)
        for algorithm, axis, curve in curves
        for point in zip(curve.at, curve.estimate.iqm, curve.estimate.low, curve.estimate.high, strict=True)
    ]
    store.write_table("curves.csv", header, points)


def write_report(plan: Plan, summaries: Sequence[Summary], failures: Mapping[str, str], store: Store) -> None:
    """
    Write ``report.md`` with its picture, and ``report.html`` with all in one.

    :param plan: The plan
    :param summaries: The algorithms
    :param failures: Which runs failed, and their last words
    :param store: The folder
    """
    title = f"{' / '.join(summary.algorithm for summary in summaries)} on {plan.arguments.env}"
    picture = draw(summaries, plan.threshold)
    parts = _parts(plan, summaries, failures, picture)
    (store.out / _PICTURE).write_bytes(picture)
    (store.out / "report.md").write_text(as_markdown(title, parts), encoding="utf-8")
    (store.out / "report.html").write_text(as_html(title, parts), encoding="utf-8")


def results_table(summaries: Sequence[Summary]) -> Table:
    """
    :param summaries: The algorithms
    :return: The main table, one row per algorithm
    """
    threshold = summaries[0].threshold
    header = ["Algorithm", "Seeds", "Steps", "Final return", "Steps/s", "Seconds"]
    if threshold is not None:
        header += [f"Reached {threshold:g}", "after seconds", "after steps"]
    rows = []
    for summary in summaries:
        steps = summary.results[0].evaluations[-1].timesteps
        row = [summary.algorithm, str(len(summary.results)), f"{steps:,}", of_seeds(summary.final_return)]
        row += [of_seeds(summary.steps_per_second), of_seeds(summary.seconds)]
        if threshold is not None:
            row += [f"{summary.n_reached} of {len(summary.results)}"]
            row += [median_and_range(summary.seconds_to_threshold), median_and_range(summary.steps_to_threshold)]
        rows.append(row)
    return Table(header, rows)


def _run_rows(env: str, summary: Summary) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = []
    for index, result in enumerate(summary.results):
        last = result.evaluations[-1]
        row: list[object] = [env, summary.algorithm, result.spec.seed, last.timesteps, last.seconds, result.steps_per_second]
        row += [result.copying_seconds, last.mean_return]
        if summary.threshold is not None:
            row += [summary.threshold, summary.steps_to_threshold[index], summary.seconds_to_threshold[index]]
        rows.append(row)
    return rows


def _parts(plan: Plan, summaries: Sequence[Summary], failures: Mapping[str, str], picture: bytes) -> list[Part]:
    import yaml  # of the extra: the command's --help must do without it

    results = [result for summary in summaries for result in summary.results]
    n_seeds = min(len(summary.results) for summary in summaries)
    parts: list[Part] = [*_warnings(plan, summaries, failures), results_table(summaries)]
    parts += [Paragraph(text) for text in (_how_to_read(n_seeds, plan.threshold), _against_the_first(summaries)) if text]
    caption = "Interquartile means with 95 % bootstrap intervals." if n_seeds >= MIN_SEEDS else "One line per run."
    parts += [Heading("Learning curves"), Picture(picture, _PICTURE, caption)]
    parts += [Heading("How it was measured"), Bullets(_how_measured(plan, results))]
    parts += [Heading("Settings"), Bullets(_sources(plan)), Paragraph("What is not listed here has the algorithm's default.")]
    settings = {summary.algorithm: summary.results[0].spec.settings for summary in summaries}
    parts.append(Code(yaml.safe_dump(settings, sort_keys=False).rstrip()))
    parts += [Heading("Each run"), _runs_table(plan, summaries)]
    parts += [Heading("Machine and command"), Bullets(_provenance(results)), Code(plan.arguments.command())]
    return parts


def _warnings(plan: Plan, summaries: Sequence[Summary], failures: Mapping[str, str]) -> list[Part]:
    """Reasons why figures may not mean what they seem to mean."""
    results = [result for summary in summaries for result in summary.results]
    warnings = [f"{run} failed and is not in any figure: {why}" for run, why in failures.items()]
    jobs = max(result.provenance.jobs for result in results)
    if jobs > 1:
        warnings.append(f"Up to {jobs} runs were made at once and disturbed each other's clock: seconds are of little worth.")
    if len({(result.provenance.machine, result.provenance.versions) for result in results}) > 1:
        warnings.append("Runs were made on different machines or with different versions.")
    n_envs = {summary.algorithm: summary.results[0].spec.settings["n_envs"] for summary in summaries}
    if len(set(n_envs.values())) > 1:
        numbers = ", ".join(f"{algo} {number}" for algo, number in n_envs.items())
        warnings.append(f"The settings give the algorithms different numbers of environments: {numbers}.")
    steps = {summary.algorithm: summary.results[0].evaluations[-1].timesteps for summary in summaries}
    if max(steps.values()) > 1.05 * min(steps.values()):
        numbers = ", ".join(f"{algo} {number:,}" for algo, number in steps.items())
        warnings.append(f"Final returns are not after the same number of steps: {numbers}. A run ends with a whole rollout.")
    without = [algo for algo in n_envs if algo not in plan.arguments.settings]
    if plan.arguments.settings and without:
        warnings.append(f"Only some algorithms have settings; these ran with their defaults: {', '.join(without)}.")
    if results[0].load_before > usable_cores() / 2:
        warnings.append(
            f"The machine was busy before the first run (load {results[0].load_before:.1f}): seconds and steps/s say little."
        )
    return [Paragraph(text, warning=True) for text in warnings]


def _how_to_read(n_seeds: int, threshold: float | None) -> str:
    text = "Final return, steps/s and seconds: interquartile mean over seeds, and in brackets its 95 % bootstrap interval."
    if n_seeds < MIN_SEEDS:
        text = (
            "Final return, steps/s and seconds: the value of each run, in the order of the seeds. An interval needs at least "
            f"{MIN_SEEDS} seeds."
        )
    if threshold is not None:
        text += (
            f" Reached: the first evaluation with a mean return of at least {threshold:g}; median over seeds, and in brackets "
            "the least and the greatest; a seed that never got there counts as later than all others."
        )
    return text


def _against_the_first(summaries: Sequence[Summary]) -> str:
    """How many times the seconds and steps of the first algorithm to the threshold the others took."""
    reached = [s for s in summaries if s.threshold is not None and 0 < median(s.seconds_to_threshold) < inf]
    sentences = []
    for first, other in zip(reached[:1] * len(reached), reached[1:], strict=False):
        seconds = median(other.seconds_to_threshold) / median(first.seconds_to_threshold)
        steps = median(other.steps_to_threshold) / median(first.steps_to_threshold)
        times = f"{seconds:.1f} times {first.algorithm}'s seconds and {steps:.1f} times its steps"
        sentences.append(f"To reach {first.threshold:g}, {other.algorithm} took {times} (medians).")
    return " ".join(sentences)


def _how_measured(plan: Plan, results: Sequence[RunResult]) -> list[str]:
    copying = max(result.copying_seconds / result.evaluations[-1].seconds for result in results)
    n_runs = len(plan.specs)
    intervals = " or ".join(f"{interval:,}" for interval in sorted({spec.eval_interval for spec in plan.specs}))
    return [
        "Seconds are those of learn() alone, with the start of its workers, and without any evaluation: the policy and its "
        "normalization statistics were copied during training and evaluated when it was over. Copying is counted; it took at "
        f"most {copying:.2%} of a run's seconds.",
        "Steps are counted in the environments when the policy was copied. A3C's workers are ahead of what callbacks see, and "
        "what they have done by then counts.",
        f"Each evaluation: {plan.arguments.n_eval_episodes} episodes with deterministic actions, in the environment's own "
        f"rewards, from the same starts for all algorithms; every {intervals} steps, at the next "
        "rollout's beginning.",
        f"{n_runs} runs, each in a fresh process, {plan.arguments.num_threads} torch thread(s), a seed of every algorithm "
        "before the next seed.",
    ]


def _sources(plan: Plan) -> list[str]:
    files = plan.arguments.settings
    return [
        f"{algo}: " + (f"the settings in {os.fspath(files[algo])}" if algo in files else "no settings file, so its defaults")
        for algo in plan.arguments.algos
    ]


def _runs_table(plan: Plan, summaries: Sequence[Summary]) -> Table:
    header = ["Run", "Steps", "Seconds", "Steps/s", "Final return", "± over episodes"]
    if plan.threshold is not None:
        header += [f"Reached {plan.threshold:g} after seconds", "after steps"]
    rows = []
    for summary in summaries:
        for index, result in enumerate(summary.results):
            last = result.evaluations[-1]
            row = [f"{summary.algorithm} seed {result.spec.seed}", f"{last.timesteps:,}", number(last.seconds)]
            row += [number(result.steps_per_second), number(last.mean_return), number(last.std_return)]
            if summary.threshold is not None:
                row += [number(summary.seconds_to_threshold[index]), number(summary.steps_to_threshold[index])]
            rows.append(row)
    return Table(header, rows)


def _provenance(results: Sequence[RunResult]) -> list[str]:
    machines = sorted({result.provenance.machine for result in results})
    versions = sorted({result.provenance.versions for result in results})
    before, after = ([getattr(result, name) for result in results] for name in ("load_before", "load_after"))
    load = (
        f"Load of the machine (processes that ran or wanted to, averaged over a minute): {min(before):.1f} to "
        f"{max(before):.1f} when runs began, {min(after):.1f} to {max(after):.1f} when they ended. A run adds its own workers."
    )
    return [*(f"Machine: {machine}" for machine in machines), load, *(f"Versions: {version}" for version in versions)]
