"""What a comparison reports: figures as they are computed by hand and by rliable, and the same in tables and pages."""

import base64
import csv
import re
from dataclasses import replace
from math import inf, isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from sb3_a3c.comparison.arguments import Arguments
from sb3_a3c.comparison.cells import of_seeds
from sb3_a3c.comparison.estimates import Summary, estimate, learning_curve, summarize
from sb3_a3c.comparison.faults import BadArgument
from sb3_a3c.comparison.figure import draw_curves
from sb3_a3c.comparison.plan import Plan
from sb3_a3c.comparison.progress import Progress, TimeLeft
from sb3_a3c.comparison.provenance import Provenance
from sb3_a3c.comparison.report import results_table, write_report, write_tables
from sb3_a3c.comparison.run import Evaluation, RunResult, RunSpec, Stage
from sb3_a3c.comparison.store import Store

#: Mean returns of the evaluations of five seeds, and the seconds of their second and third.
RETURNS = [[-1200, -800, -300], [-1100, -400, -160], [-1250, -900, -200], [-1000, -350, -150], [-1300, -1200, -1000]]
SECONDS = [[1.0, 2.0], [1.5, 3.0], [2.0, 4.0], [1.0, 2.5], [2.0, 5.0]]


def make_results(algorithm: str, slower: float = 1.0, jobs: int = 1, load: float = 0.2) -> list[RunResult]:
    results = []
    for seed, (returns, seconds) in enumerate(zip(RETURNS, SECONDS, strict=True)):
        spec = RunSpec("Pendulum-v1", algorithm, seed, 1000, {"n_envs": 2, "policy": "MlpPolicy"}, 500, 2, 1)
        evaluations = [
            Evaluation(timesteps, slower * at, [value - 10.0, value + 10.0], [200, 200])
            for timesteps, at, value in zip([0, 500, 1000], [0.0, *seconds], returns, strict=True)
        ]
        provenance = Provenance("a <fast> machine", "Python 3.11, torch 2.13", jobs)
        results.append(RunResult(spec, evaluations, 0.001, 10.0 * slower, load + seed, load + seed + 1, provenance))
    return results


def reported(
    out: Path, threshold: float | None = -300.0, seeds: int = 5, settings: dict[str, Any] | None = None, **kwargs: Any
) -> tuple[Plan, list[Summary], Store]:
    arguments = Arguments(
        "Pendulum-v1",
        ["a3c", "a2c"],
        seeds=seeds,
        timesteps=1000,
        out=out,
        settings=settings or {},
        threshold=threshold,
        n_eval_episodes=2,
    )
    results = {"a3c": make_results("a3c", **kwargs)[:seeds], "a2c": make_results("a2c", slower=4.0, **kwargs)[:seeds]}
    plan = Plan(arguments, [result.spec for algo in results for result in results[algo]], threshold)
    summaries = [summarize(algo, results[algo], threshold) for algo in results]
    store = Store(out)
    write_tables(plan, summaries, store)
    return plan, summaries, store


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_estimates_are_rliable_s() -> None:
    """
    The numbers are what ``rliable.library.get_interval_estimates`` of rliable 1.2.0 gives with ``aggregate_iqm``. Of five
    seeds the interval's ends are among few values, which both find; the resamples are other ones.
    """
    found = estimate(np.array(RETURNS, float))
    np.testing.assert_allclose(found.iqm, [-1183.333333, -700.0, -220.0], rtol=1e-9)
    np.testing.assert_allclose(found.low, [-1283.333333, -1100.0, -766.666667], rtol=1e-6)
    np.testing.assert_allclose(found.high, [-1033.333333, -366.666667, -153.333333], rtol=1e-6)
    found = estimate(np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]))
    assert (found.iqm, found.low, found.high) == (3.5, 1.5, 6.0)


@pytest.mark.parametrize("n_seeds", [1, 2, 4])
def test_few_seeds_have_no_interval(n_seeds: int) -> None:
    """Of so few values an interval says nothing: the values themselves are shown."""
    found = estimate(np.array([-174.0, 7.25, -180.0, 12.5])[:n_seeds])
    assert isnan(found.low) and isnan(found.high)
    assert of_seeds(found) == "; ".join(["-174", "7.25", "-180", "12.5"][:n_seeds])


def test_curves() -> None:
    """Straight lines between evaluations, and no further than the first seed to end."""
    by_steps, by_seconds = (learning_curve(make_results("a2c"), axis) for axis in ("timesteps", "seconds"))  # type: ignore
    assert (by_steps.at[0], by_steps.at[-1], len(by_steps.at)) == (0.0, 1000.0, 201)
    np.testing.assert_allclose(by_steps.estimate.iqm[[0, 100, 200]], [-1183.333333, -700.0, -220.0], rtol=1e-6)
    # After 250 steps each is half way: -1000, -750, -1075, -675, -1250
    np.testing.assert_allclose(by_steps.estimate.iqm[50], (-1000 - 750 - 1075) / 3, rtol=1e-12)
    assert (by_seconds.at[0], by_seconds.at[-1]) == (0.0, 2.0)
    # After a second: -800, -1100 + 700 * 2/3, -1250 + 350 / 2, -350, -1300 + 100 / 2
    np.testing.assert_allclose(by_seconds.estimate.iqm[100], (-800 - 1100 + 700 * 2 / 3 - 1075) / 3, rtol=1e-12)


def test_summary() -> None:
    summary = summarize("a2c", make_results("a2c"), -300.0)
    assert summary.steps_to_threshold == [1000, 1000, 1000, 1000, inf]
    assert summary.seconds_to_threshold == [2.0, 3.0, 4.0, 2.5, inf]
    assert summary.n_reached == 4
    np.testing.assert_allclose(summary.steps_per_second.iqm, (1000 / 3 + 250 + 400) / 3, rtol=1e-12)
    np.testing.assert_allclose(summary.seconds.iqm, (2.5 + 3.0 + 4.0) / 3, rtol=1e-12)
    assert (results := results_table([summary])).header[-3:] == ["Reached -300", "after seconds", "after steps"]
    assert results.rows[0][-3:] == ["4 of 5", "3 [2, never]", "1,000 [1,000, never]"]
    assert results_table([summarize("a2c", make_results("a2c"), 0.0)]).rows[0][-3:] == ["0 of 5", "never", "never"]
    without = summarize("a2c", make_results("a2c"), None)
    assert without.steps_to_threshold == [] and "Reached" not in " ".join(results_table([without]).header)


def test_raw_tables(tmp_path: Path) -> None:
    reported(tmp_path)
    rows = rows_of(tmp_path / "evaluations.csv")
    assert len(rows) == 2 * 5 * 3 * 2
    found = [r for r in rows if (r["algorithm"], r["seed"], r["timesteps"]) == ("a2c", "1", "500")]
    assert [(float(r["seconds"]), float(r["episode_return"]), r["episode"]) for r in found] == [(6, -410, "0"), (6, -390, "1")]
    runs = rows_of(tmp_path / "runs.csv")
    assert [float(r["final_return"]) for r in runs if r["algorithm"] == "a3c"] == [returns[-1] for returns in RETURNS]
    assert [float(r["seconds_to_threshold"]) for r in runs if r["algorithm"] == "a2c"] == [8.0, 12.0, 16.0, 10.0, inf]
    last = [r for r in rows_of(tmp_path / "curves.csv") if (r["algorithm"], r["axis"]) == ("a3c", "timesteps")][-1]
    assert [float(last[name]) for name in ("at", "iqm")] == pytest.approx([1000.0, -220.0])


def test_report_says_what_the_tables_do(tmp_path: Path) -> None:
    plan, summaries, store = reported(tmp_path)
    write_report(plan, summaries, {}, store)
    markdown, html = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
    final = [float(row["final_return"]) for row in rows_of(tmp_path / "runs.csv") if row["algorithm"] == "a2c"]
    iqm = float(estimate(np.array(final)).iqm)
    cells = next(line for line in markdown.splitlines() if line.startswith("| a2c |")).split(" | ")
    assert cells[1:4] == ["5", "1,000", f"{iqm:.0f} [-766.7, -153.3]"]
    assert '<td data-label="Final return">-220 <small>[-766.7, -153.3]</small></td>' in html
    for row in rows_of(tmp_path / "runs.csv"):
        assert (
            f"| {row['algorithm']} seed {row['seed']} | 1,000 | {float(row['seconds']):g} |".replace("| 2.5 ", "| 2.50 ")
            in markdown
        )
    for page in (markdown, html.replace("&#x27;", "'")):
        assert "To reach -300, a2c took 4.0 times a3c's seconds and 1.0 times its steps (medians)." in page
        assert plan.arguments.command() in page and "Python 3.11, torch 2.13" in page and "n_envs: 2" in page
        assert "at most 0.05%" in page
        assert "failed" not in page and "disturbed" not in page
    assert "a <fast> machine" in markdown and "a &lt;fast&gt; machine" in html


def test_html_needs_nothing_but_itself(tmp_path: Path) -> None:
    plan, summaries, store = reported(tmp_path)
    write_report(plan, summaries, {}, store)
    html = (tmp_path / "report.html").read_text()
    (source,) = re.findall(r'src="([^"]*)"', html)
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == (tmp_path / "learning_curves.png").read_bytes()
    assert base64.b64decode(data).startswith(b"\x89PNG") and not re.search(r"https?:|href=|<script|url\(", html)
    assert "![" in (tmp_path / "report.md").read_text() and "(learning_curves.png)" in (tmp_path / "report.md").read_text()


def test_a_report_of_few_seeds_shows_the_runs(tmp_path: Path) -> None:
    plan, summaries, store = reported(tmp_path, seeds=3)
    write_report(plan, summaries, {}, store)
    markdown = (tmp_path / "report.md").read_text()
    assert "| a3c | 3 | 1,000 | -300; -160; -200 |" in markdown and "One line per run." in markdown
    assert "95 %" not in markdown and "nterquartile" not in markdown
    axes, by_seconds = (figure := Figure()).subplots(2, 1)
    draw_curves(figure.axes, summaries, None)
    for panel in figure.axes:  # a line per run, to the run's own end, and no band
        heights = sorted(line.get_ydata()[-1] for line in panel.lines if len(line.get_ydata()) > 1)
        assert heights == sorted(2 * [-300, -160, -200]) and not panel.collections
    assert sorted(line.get_xdata()[-1] for line in by_seconds.lines)[::2] == [2.0, 3.0, 4.0, 8.0, 12.0, 16.0]
    assert [text.get_text() for text in figure.legend(*axes.get_legend_handles_labels()).texts] == ["a3c", "a2c"]


def test_a_report_reads_on_a_phone(tmp_path: Path) -> None:
    """Nothing is wider than the page; test by eye: a browser window of 390 pixels has no sideways scroll bar."""
    plan, summaries, store = reported(tmp_path)
    write_report(plan, summaries, {}, store)
    html = (tmp_path / "report.html").read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert "nowrap" not in html and "@media (max-width" in html and "pre-wrap" in html and "max-width: 100%" in html
    labels = re.findall(r'data-label="([^"]*)"', html)
    assert labels[:9] == results_table(summaries).header  # each cell names its column, for narrow pages without a header


def test_the_report_says_where_settings_come_from(tmp_path: Path) -> None:
    plan, summaries, store = reported(tmp_path, settings={"a3c": "settings/a3c.yml"})
    write_report(plan, summaries, {}, store)
    markdown = (tmp_path / "report.md").read_text()
    assert "- a3c: the settings in settings/a3c.yml\n- a2c: no settings file, so its defaults" in markdown
    assert "Only some algorithms have settings; these ran with their defaults: a2c." in markdown
    assert "--settings a3c=settings/a3c.yml" in markdown


def test_the_report_says_how_busy_the_machine_was(tmp_path: Path) -> None:
    plan, summaries, store = reported(tmp_path)
    write_report(plan, summaries, {}, store)
    markdown = (tmp_path / "report.md").read_text()
    assert "0.2 to 4.2 when runs began, 1.2 to 5.2 when they ended" in markdown and "was busy" not in markdown
    plan, summaries, store = reported(tmp_path, load=100.0)
    write_report(plan, summaries, {}, store)
    assert "The machine was busy before the first run (load 100.0)" in (tmp_path / "report.md").read_text()


def test_different_numbers_of_environments_are_told(tmp_path: Path) -> None:
    plan, summaries, store = reported(tmp_path)
    for result in summaries[1].results:
        result.spec.settings["n_envs"] = 16
    write_report(plan, summaries, {}, store)
    assert "different numbers of environments: a3c 2, a2c 16." in (tmp_path / "report.md").read_text()


def test_different_numbers_of_steps_are_told(tmp_path: Path) -> None:
    """As PPO's, which learns from whole rollouts of 2,048 steps per environment."""
    plan, summaries, store = reported(tmp_path)
    for result in summaries[1].results:
        result.evaluations[-1] = replace(result.evaluations[-1], timesteps=16_384)
    write_report(plan, summaries, {}, store)
    assert "not after the same number of steps: a3c 1,000, a2c 16,384." in (tmp_path / "report.md").read_text()


def test_warnings_of_figures_that_mean_less(tmp_path: Path) -> None:
    plan, summaries, store = reported(tmp_path, threshold=None, jobs=2)
    write_report(plan, summaries, {"a3c seed 5": "ValueError: nan"}, store)
    html = (tmp_path / "report.html").read_text().replace("&#x27;", "'")
    assert "<p class='warning'>a3c seed 5 failed and is not in any figure: ValueError: nan</p>" in html
    assert "<p class='warning'>Up to 2 runs were made at once and disturbed each other's clock" in html
    assert "Reached" not in html


def test_store_keeps_whole_runs_alone(tmp_path: Path) -> None:
    store, (result, *_) = Store(tmp_path), make_results("module:Class")
    with store.taken():
        assert store.load(result.spec) is None
        store.save(result)
        assert store.load(result.spec) == result
        with pytest.raises(BadArgument, match="at work"), Store(tmp_path).taken():
            pass
    (path,) = (tmp_path / "runs").glob("*.json*")
    assert path.name == "module-Class-seed0.json"
    other = RunSpec(**{**vars(result.spec), "timesteps": 2000, "n_eval_episodes": 3})
    with pytest.raises(BadArgument, match="timesteps is 1000 there and 2000 here; n_eval_episodes is 2 there and 3 here"):
        store.load(other)


def test_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Runs take 2 seconds to start, A3C's then 2 to learn and 8 to be evaluated, A2C's 8 and 32. As long as an algorithm has no
    finished run the time is a lower bound, and says so.
    """
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    a3c, a2c = make_results("a3c")[:2], make_results("a2c", slower=4.0)[:2]
    progress = Progress([a3c[0].spec, a2c[0].spec, a3c[1].spec, a2c[1].spec], jobs=1, visible=False)
    progress.at(a3c[0].spec, Stage("starts", 0.0))
    assert progress.time_left() is None
    now = 2.0
    progress.at(a3c[0].spec, Stage("learns", 0.0))
    assert progress.time_left() == TimeLeft(2.0 + 2.0 + 2.0, True)  # three more starts
    now = 3.0
    progress.at(a3c[0].spec, Stage("learns", 0.5))
    assert progress.time_left() == TimeLeft(1.0 + 6.0, True)  # its own rest, three starts
    now = 12.0
    progress.over(a3c[0].spec, a3c[0])
    a3c_run = 2.0 + 10.0
    assert progress.time_left() == TimeLeft(2.0 + a3c_run + 2.0, True)
    progress.at(a2c[0].spec, Stage("starts", 0.0))
    now = 14.0
    progress.at(a2c[0].spec, Stage("learns", 0.0))
    now = 18.0
    progress.at(a2c[0].spec, Stage("learns", 0.5))
    assert progress.time_left() == TimeLeft(4.0 + a3c_run + 2.0, True)
    now = 54.0
    progress.over(a2c[0].spec, a2c[0])
    a2c_run = 2.0 + 40.0
    assert progress.time_left() == TimeLeft(a3c_run + a2c_run, False)
    progress.at(a3c[1].spec, Stage("starts", 0.0))
    now = 56.0
    progress.at(a3c[1].spec, Stage("learns", 0.0))
    now = 60.0
    progress.at(a3c[1].spec, Stage("learns", 0.5))  # twice as slow as the first: its own pace counts
    assert progress.time_left() == TimeLeft(4.0 + 8.0 + a2c_run, False)
    progress.over(a3c[1].spec, None)
    progress.over(a2c[1].spec, a2c[1])
    assert progress.time_left() is None
    progress.close()


def test_the_time_left_of_runs_made_at_once() -> None:
    """Three runs of ten seconds take ten seconds with three jobs, and twenty with two."""
    results = make_results("a3c")[:4]
    for jobs, seconds in [(3, 10.0), (2, 20.0), (1, 30.0)]:
        progress = Progress([result.spec for result in results], jobs, visible=False)
        progress.over(results[0].spec, results[0])
        assert progress.time_left() == TimeLeft(seconds, False)
        progress.close()


def test_the_command_gives_the_same() -> None:
    from sb3_a3c.compare import make_parser

    arguments = Arguments("Pendulum-v1", ("a2c",), 3, 500, "my runs", {"a2c": "a2c.yml"}, 4, -200.0, 50, 2, 2, 2)
    import shlex

    options = vars(make_parser().parse_args(shlex.split(arguments.command())[3:]))
    options |= {"settings": dict(text.split("=") for text in options["settings"]), "algos": tuple(options["algos"])}
    assert Arguments(**options) == arguments
