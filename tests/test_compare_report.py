"""What a comparison reports: figures equal to those computed by hand and by rliable, in tables and in pages."""

import base64
import csv
import re
import shlex
from dataclasses import replace
from math import inf, isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from sb3_a3c.compare import make_parser
from sb3_a3c.comparison import estimates
from sb3_a3c.comparison.arguments import Arguments
from sb3_a3c.comparison.cells import of_seeds
from sb3_a3c.comparison.errors import BadArgument
from sb3_a3c.comparison.estimates import Summary, estimate, learning_curve, summarize
from sb3_a3c.comparison.figure import draw_curves
from sb3_a3c.comparison.progress import Progress
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


def summarized(
    threshold: float | None = -300.0, seeds: int = 5, settings: dict[str, Any] | None = None, **kwargs: Any
) -> tuple[Arguments, list[Summary]]:
    arguments = Arguments("Pendulum-v1", ["a3c", "a2c"], seeds, 1000, settings=settings or {}, n_eval_episodes=2)
    results = {"a3c": make_results("a3c", **kwargs)[:seeds], "a2c": make_results("a2c", slower=4.0, **kwargs)[:seeds]}
    return arguments, [summarize(algo, results[algo], threshold) for algo in results]


def report_of(
    arguments: Arguments, summaries: list[Summary], out: Path, failures: dict[str, str] | None = None
) -> tuple[str, str]:
    """The report in Markdown and in HTML."""
    write_report(arguments, summaries, failures or {}, out)
    markdown, html = ((out / name).read_text() for name in ("report.md", "report.html"))
    return markdown, html.replace("&#39;", "'")


@pytest.fixture(scope="module")
def whole_report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Arguments, list[Summary], Path, str, str]:
    out = tmp_path_factory.mktemp("report")
    arguments, summaries = summarized()
    write_tables(summaries, out)
    return arguments, summaries, out, *report_of(arguments, summaries, out)


@pytest.fixture(autouse=True, scope="module")
def few_resamples() -> Any:
    """For curves only; they take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimates, "_N_CURVE_RESAMPLES", 100)
        yield


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_estimates_are_rliable_s() -> None:
    """
    The numbers are those of ``rliable.library.get_interval_estimates`` of rliable 1.2.0 with ``aggregate_iqm``. The resamples
    differ, but with five seeds the interval's ends are among few values, and both find the same.
    """
    found = estimate(np.array(RETURNS, float))
    np.testing.assert_allclose(found.iqm, [-1183.333333, -700.0, -220.0], rtol=1e-9)
    np.testing.assert_allclose(found.low, [-1283.333333, -1100.0, -766.666667], rtol=1e-6)
    np.testing.assert_allclose(found.high, [-1033.333333, -366.666667, -153.333333], rtol=1e-6)
    found = estimate(np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]))
    assert (found.iqm, found.low, found.high) == (3.5, 1.5, 6.0)


@pytest.mark.parametrize("n_seeds", [1, 2, 4])
def test_few_seeds_have_no_interval(n_seeds: int) -> None:
    """An interval of so few values says nothing, so the values themselves are shown."""
    found = estimate(np.array([-174.0, 7.25, -180.0, 12.5])[:n_seeds])
    assert isnan(found.low) and isnan(found.high)
    assert of_seeds(found) == "; ".join(["-174", "7.25", "-180", "12.5"][:n_seeds])


def test_curves() -> None:
    """Straight lines between evaluations, up to the end of the first run that ends."""
    at, curve = learning_curve(make_results("a2c"), "timesteps")
    assert (at[0], at[-1], len(at)) == (0.0, 1000.0, 201)
    np.testing.assert_allclose(curve.iqm[[0, 100, 200]], [-1183.333333, -700.0, -220.0], rtol=1e-6)
    # After 250 steps each is half way: -1000, -750, -1075, -675, -1250
    np.testing.assert_allclose(curve.iqm[50], (-1000 - 750 - 1075) / 3, rtol=1e-12)
    at, curve = learning_curve(make_results("a2c"), "seconds")
    assert (at[0], at[-1]) == (0.0, 2.0)
    # After a second: -800, -1100 + 700 * 2/3, -1250 + 350 / 2, -350, -1300 + 100 / 2
    np.testing.assert_allclose(curve.iqm[100], (-800 - 1100 + 700 * 2 / 3 - 1075) / 3, rtol=1e-12)


def test_summary() -> None:
    summary = summarize("a2c", make_results("a2c"), -300.0)
    assert summary.steps_to_threshold == [1000, 1000, 1000, 1000, inf]
    assert summary.seconds_to_threshold == [2.0, 3.0, 4.0, 2.5, inf]
    assert summary.n_reached == 4
    np.testing.assert_allclose(summary.steps_per_second.iqm, (1000 / 3 + 250 + 400) / 3, rtol=1e-12)
    np.testing.assert_allclose(summary.seconds.iqm, (2.5 + 3.0 + 4.0) / 3, rtol=1e-12)
    table = results_table([summary])
    assert list(table.columns[-3:]) == ["Reached -300", "after seconds", "after steps"]
    assert list(table.iloc[0, -3:]) == ["4 of 5", "3 [2, never]", "1,000 [1,000, never]"]
    assert list(results_table([summarize("a2c", make_results("a2c"), 0.0)]).iloc[0, -3:]) == ["0 of 5", "never", "never"]
    without = summarize("a2c", make_results("a2c"), None)
    assert without.steps_to_threshold == [] and "Reached" not in " ".join(results_table([without]).columns)


def test_raw_tables(whole_report: Any) -> None:
    _, _, out, _, _ = whole_report
    rows = rows_of(out / "evaluations.csv")
    assert len(rows) == 2 * 5 * 3 * 2
    found = [r for r in rows if (r["algorithm"], r["seed"], r["timesteps"]) == ("a2c", "1", "500")]
    assert [(float(r["seconds"]), float(r["episode_return"]), r["episode"]) for r in found] == [(6, -410, "0"), (6, -390, "1")]
    assert {(r["env"], r["episode_length"]) for r in rows} == {("Pendulum-v1", "200")}
    runs = rows_of(out / "runs.csv")
    assert [float(r["final_return"]) for r in runs if r["algorithm"] == "a3c"] == [returns[-1] for returns in RETURNS]
    assert [float(r["seconds_to_threshold"]) for r in runs if r["algorithm"] == "a2c"] == [8.0, 12.0, 16.0, 10.0, inf]
    last = [r for r in rows_of(out / "curves.csv") if (r["algorithm"], r["axis"]) == ("a3c", "timesteps")][-1]
    assert [float(last[name]) for name in ("at", "iqm")] == pytest.approx([1000.0, -220.0])


def test_the_report_has_the_figures_of_the_tables(whole_report: Any) -> None:
    arguments, _, out, markdown, html = whole_report
    runs = rows_of(out / "runs.csv")
    iqm = float(estimate(np.array([float(row["final_return"]) for row in runs if row["algorithm"] == "a2c"])).iqm)
    cells = next(line for line in markdown.splitlines() if line.startswith("| a2c |")).split(" | ")
    assert cells[1:4] == ["5", "1,000", f"{iqm:.0f} [-766.7, -153.3]"]
    assert '<td data-label="Final return">-220 <small>[-766.7, -153.3]</small></td>' in html
    for row in runs:
        cells = f"| {row['algorithm']} seed {row['seed']} | 1,000 | {float(row['seconds']):g} |"
        assert cells.replace("| 2.5 ", "| 2.50 ") in markdown
    for page in (markdown, html):
        assert "To reach -300, a2c took 4.0 times a3c's seconds and 1.0 times its steps (medians)." in page
        assert arguments.command() in page and "Python 3.11, torch 2.13" in page and "n_envs: 2" in page
        assert "at most 0.05%" in page and "every 500 steps" in page
        assert "0.2 to 4.2 when runs began, 1.2 to 5.2 when they ended" in page
    assert "a <fast> machine" in markdown and "a &lt;fast&gt; machine" in html


def test_the_html_needs_no_other_file(whole_report: Any) -> None:
    _, _, out, markdown, html = whole_report
    (source,) = re.findall(r'src="([^"]*)"', html)
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == (out / "learning_curves.png").read_bytes()
    assert base64.b64decode(data).startswith(b"\x89PNG") and not re.search(r"https?:|href=|<script|url\(", html)
    assert "![" in markdown and "(learning_curves.png)" in markdown


def test_the_markdown_is_well_formed(whole_report: Any) -> None:
    """A blank line stands around headings, tables and blocks, without which they would be text."""
    lines = whole_report[3].splitlines()
    assert lines[0] == "# a3c / a2c on Pendulum-v1" and not any(re.match(r" \S", line) for line in lines)
    kinds = ["table" if line.startswith("|") else "list" if line.startswith("- ") else line[:3] for line in lines]
    blank = [index for index, line in enumerate(lines) if not line]
    assert all(index + 1 not in blank for index in blank)
    for index, kind in enumerate(kinds):
        if kind in ("## ", "table", "list"):
            assert lines[index - 1] == "" or kinds[index - 1] == kind, lines[index]
    assert lines.count("```") == 4


def test_a_report_of_few_seeds_shows_the_runs(tmp_path: Path) -> None:
    arguments, summaries = summarized(seeds=3)
    markdown, _ = report_of(arguments, summaries, tmp_path)
    assert "| a3c | 3 | 1,000 | -300; -160; -200 |" in markdown and "One line per run." in markdown
    assert "95 %" not in markdown and "nterquartile" not in markdown
    axes, by_seconds = (figure := Figure()).subplots(2, 1)
    draw_curves(figure.axes, summaries, None)
    for panel in figure.axes:  # a line per run, to the run's own end, and no band
        heights = sorted(line.get_ydata()[-1] for line in panel.lines if len(line.get_ydata()) > 1)
        assert heights == sorted(2 * [-300, -160, -200]) and not panel.collections
    assert sorted(line.get_xdata()[-1] for line in by_seconds.lines)[::2] == [2.0, 3.0, 4.0, 8.0, 12.0, 16.0]
    assert [text.get_text() for text in figure.legend(*axes.get_legend_handles_labels()).texts] == ["a3c", "a2c"]


def test_a_report_can_be_read_on_a_phone(whole_report: Any) -> None:
    """Nothing is wider than the page. To test by eye: a browser window of 390 pixels has no horizontal scroll bar."""
    _, summaries, _, _, html = whole_report
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert "nowrap" not in html and "@media (max-width" in html and "pre-wrap" in html and "max-width: 100%" in html
    labels = re.findall(r'data-label="([^"]*)"', html)
    assert labels[:9] == list(results_table(summaries).columns)  # each cell names its column, because the header is hidden


def test_a_report_without_reasons_for_doubt_has_no_warnings(whole_report: Any) -> None:
    assert 'class="warning"' not in whole_report[4] and "> **" not in whole_report[3]


def test_warnings(tmp_path: Path) -> None:
    """All reasons why figures may not mean what they seem to mean."""
    arguments, summaries = summarized(threshold=None, jobs=2, load=100.0, settings={"a3c": "settings/a3c.yml"})
    for result in summaries[1].results:
        result.spec.settings["n_envs"] = 16
        result.evaluations[-1] = replace(result.evaluations[-1], timesteps=16_384)  # as PPO's, which ends a long rollout
    summaries[1].results[0] = replace(summaries[1].results[0], provenance=Provenance("another machine", "", 2))  # type: ignore
    markdown, html = report_of(arguments, summaries, tmp_path, {"a3c seed 5": "ValueError: <nan>"})
    warnings = [
        "a3c seed 5 failed and is not in any figure: ValueError: <nan>",
        "Up to 2 runs were made at once and slowed each other down: seconds mean little.",
        "Runs were made on different machines or with different versions.",
        "The algorithms have different numbers of environments: a3c 2, a2c 16.",
        "Final returns are not after the same number of steps: a3c 1,000, a2c 16,384. A run ends with a whole rollout.",
        "Only some algorithms have settings; these ran with their defaults: a2c.",
        "The machine was busy before the first run (load 100.0): seconds and steps/s mean little.",
    ]
    assert re.findall(r"> \*\*(.*)\*\*", markdown) == warnings
    assert re.findall(r'<p class="warning">(.*)</p>', html.replace("&lt;", "<").replace("&gt;", ">")) == warnings
    assert "- a3c: the settings in settings/a3c.yml\n- a2c: its defaults" in markdown
    assert "--settings a3c=settings/a3c.yml" in markdown
    assert "Reached" not in markdown


def test_a_store_keeps_runs_and_locks_its_folder(tmp_path: Path) -> None:
    store, (result, *_) = Store(tmp_path), make_results("module:Class")
    with store.locked():
        assert not store.has(result.spec)
        store.save(result)
        assert store.has(result.spec) and store.load(result.spec) == result
        with pytest.raises(BadArgument, match="another comparison is using"), Store(tmp_path).locked():
            pass
    with Store(tmp_path).locked():
        pass
    (path,) = (tmp_path / "runs").glob("*.json*")
    assert path.name == "module-Class-seed0.json"
    other = replace(result.spec, timesteps=2000, n_eval_episodes=3)
    with pytest.raises(BadArgument, match="timesteps is 1000 there and 2000 here; n_eval_episodes is 2 there and 3 here"):
        store.has(other)


def test_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_a3c.comparison.progress._LOG_INTERVAL", 0.0)
    specs = [result.spec for result in make_results("a3c")]
    progress = Progress(specs, n_finished=1, visible=True)
    progress.update(specs[1], Stage("starts", 0.0))
    progress.update(specs[1], Stage("learns", 0.5))
    progress.update(specs[2], Stage("is evaluated", 0.25))
    progress.finish(specs[1])
    progress.close()
    shown = re.findall(r"(\d+)% \|.*?\| ([^\r\n]*), ([\d:?]+) left", capsys.readouterr().err)
    assert int(shown[-1][0]) == 57  # two of five runs, and 0.85 of a third
    assert "1 of 5 runs; a3c seed 1 learns (50%)" in [text for _, text, _ in shown]
    assert shown[-1][1] == "2 of 5 runs; a3c seed 2 is evaluated (25%)"


def test_the_command_gives_the_same() -> None:
    arguments = Arguments("Pendulum-v1", ("a2c",), 3, 500, "my runs", {"a2c": "a2c.yml"}, 4, -200.0, 50, 2, 2, 2)
    options = vars(make_parser().parse_args(shlex.split(arguments.command())[3:]))
    options |= {"settings": dict(options["settings"]), "algos": tuple(options["algos"])}
    assert Arguments(**options) == arguments
