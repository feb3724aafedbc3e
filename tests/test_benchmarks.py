"""Every benchmark runs, prints a table and writes it with a picture, and only where it is told to."""

import ast
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_SOURCES = {path.stem: path.read_text() for path in (ROOT / "benchmarks").glob("*.py")}
SCRIPTS = sorted(name for name, source in _SOURCES.items() if "__main__" in source)
#: Benchmarks that need a package which can't be installed beside those of this project, and that package.
ELSEWHERE = {"rllib": "ray.rllib"}
#: What the first column of a quick run's table says.
ROWS = {
    "ablation": ["CartPole-v1"] * 2,
    "callbacks": ["A2C", "A3C, 2 threads", "A3C, 8 threads"],
    "cnn": ["A2C", "A3C, 2 threads"],
    "equal_time": ["CartPole-v1"] * 3,
    "hogwild": ["locked", "Hogwild"],
    "memory": ["process, fork", "thread"],
    "recurrent": ["RecurrentPPO", "A3C, 1 worker, torch engine", "A3C, 1 worker"],
    "results": ["CartPole-v1"] * 5,
    "scaling": ["1", "2"],
    "start_up": ["process, fork"] * 2,
    "uneven_envs": ["even", "heavy tails", "slow resets", "one ten times slower"],
}


def folder_contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*")}


def read_table(page: str) -> list[list[str]]:
    """Rows of the simple table of a page, the header's first."""
    rule, header, _, *rest = page[re.search(r"^=+ =", page, re.MULTILINE).start() :].splitlines()  # type: ignore[union-attr]
    columns = [match.span() for match in re.finditer("=+", rule)]
    rows = rest[: rest.index(rule)]
    for line in [header, *rows]:  # nothing stands between the columns
        assert all(line[end : end + 1].strip() == "" for _, end in columns), line
    return [[line[begin:end].strip() for begin, end in columns] for line in [header, *rows]]


def test_make_bench_runs_all() -> None:
    listed = re.search(r"^BENCHMARKS := (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None and sorted([*listed[1].split(), *ELSEWHERE]) == SCRIPTS


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_benchmark(name: str, tmp_path: Path) -> None:
    if name in ELSEWHERE:
        pytest.importorskip(ELSEWHERE[name], reason=f"benchmarks/{name}.py needs {ELSEWHERE[name]}", exc_type=ImportError)
    docs = folder_contents(ROOT / "docs" / "benchmarks")
    command = [sys.executable, "-W", "error", f"benchmarks/{name}.py", "--quick", "--out", str(tmp_path)]
    one_torch_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # several are slow where other tests run beside this one
    run = subprocess.run(command, cwd=ROOT, env=one_torch_thread, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
    page = (tmp_path / f"{name}.rst").read_text()
    header, *rows = read_table(page)
    assert rows == read_table(run.stdout)[1:]
    assert [row[0] for row in rows] == ROWS.get(name, [row[0] for row in rows])
    assert all(cell and cell != "nan" for row in [header, *rows] for cell in row)
    assert f"image:: {name}.png" in page and f"``python benchmarks/{name}.py --quick" in page
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.rst", f"{name}.png"}
    assert folder_contents(ROOT / "docs" / "benchmarks") == docs


@pytest.mark.slow
def test_a_quick_run_writes_nothing_unless_it_is_told_where() -> None:
    docs = folder_contents(ROOT / "docs" / "benchmarks")
    run = subprocess.run(
        [sys.executable, "benchmarks/kernels.py", "--quick"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0 and "A quick run" in run.stdout
    assert folder_contents(ROOT / "docs" / "benchmarks") == docs


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_committed_page_says_what_its_script_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins with what was run and what it shows, before the picture and the table, and ends with how it was measured."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    lead, details = import_module("report").lead_and_details(ast.get_docstring(ast.parse(_SOURCES[name])))
    page = (ROOT / f"docs/benchmarks/{name}.rst").read_text()
    _title, rule, rest = page.split("\n", 2)
    assert set(rule) == {"="} and rest.startswith(f"\n{lead}\n\n.. image:: {name}.png\n") and rest.endswith(f"{details}\n")
    assert read_table(rest)
