"""README and docs are true: every Python snippet runs as a file, and every command, file and test that they name exists."""

import ast
import builtins
import os
import re
import runpy
import shlex
import subprocess
import sys
import zlib
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import matplotlib
import pytest
from matplotlib import pyplot

import sb3_a3c
from sb3_a3c.compare import make_parser
from sb3_a3c.zoo.__main__ import COMMANDS as ZOO_COMMANDS

ROOT = Path(__file__).parents[1]
matplotlib.use("Agg")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.rst"))]
_SNIPPETS = {
    ".md": re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL),
    ".rst": re.compile(r"^\.\. code-block:: (\w+)\n\n((?:(?: {4}.*)?\n)+)", re.MULTILINE),
}
#: Other commands; test_packaging.py installs the package.
_OTHER_COMMANDS = {
    "pip install .",
    "pip install --constraint constraints.txt .",
    "python3 -m venv .venv",
    "source .venv/bin/activate",
    'python -c "import sb3_a3c; print(sb3_a3c.__version__)"',
    ".ci/run",
    ".venv/bin/python -m ruff format .",
}


def snippets(page: Path, language: str) -> list[str]:
    return [dedent(text) for found, text in _SNIPPETS[page.suffix].findall(page.read_text()) if found == language]


def test_there_are_snippets() -> None:
    assert len(snippets(ROOT / "README.md", "python")) >= 2 and len(snippets(ROOT / "docs/quickstart.rst", "python")) >= 4


PAGES_THAT_RUN = [page for page in PAGES if snippets(page, "python") and page.name != "index.rst"]


def run_as_a_file(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """As a user does who has copied the code, in a folder of its own; a warning is an error."""
    (folder / "snippet.py").write_text(code)
    command = [sys.executable, "-W", "error", "-W", "ignore:rich is experimental", "snippet.py"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)


def assert_runs(code: str, folder: Path) -> str:
    run = run_as_a_file(code, folder)
    assert run.returncode == 0 and "Warning" not in run.stderr, run.stderr
    return run.stdout


def undefined_names(code: str) -> set[str]:
    """Names that an earlier snippet has to define."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    defined = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | set(dir(builtins))
    defined |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    defined |= {
        node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.ExceptHandler) and node.name
    }
    defined |= {
        (alias.asname or alias.name).split(".")[0]
        for node in nodes
        for alias in getattr(node, "names", [])
        if isinstance(alias, ast.alias)
    }
    return {node.id for node in names} - defined - {"__name__"}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[] if page.name == "README.md" else [pytest.mark.slow])
        for page in PAGES_THAT_RUN
    ],
)
def test_the_snippets_of_a_page_run_as_one_file(page: Path, tmp_path: Path) -> None:
    """What a reader has who copies all of them into one file. Worker processes import that file, so guards are needed."""
    assert_runs("\n\n".join(snippets(page, "python")), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, id=f"{page.name}-{index}")
        for page in PAGES_THAT_RUN
        for index, code in enumerate(snippets(page, "python"))
        if not undefined_names(code) and len(snippets(page, "python")) > 1
    ],
)
def test_a_snippet_runs_as_a_file(code: str, tmp_path: Path) -> None:
    assert_runs(code, tmp_path)


@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=lambda page: page.name)
def test_pages_that_start_processes_guard_all_training(page: Path) -> None:
    """A worker process imports the file: whatever is not guarded trains again in each worker."""
    whole = "\n\n".join(snippets(page, "python"))
    if re.search(r'backend="process"|compare\(', whole):
        unguarded = [ast.unparse(node) for node in ast.parse(whole).body if not isinstance(node, ast.If | ast.FunctionDef)]
        assert not [line for line in unguarded if ".learn(" in line or "compare(" in line]


@pytest.mark.slow
def test_the_first_snippet_learns(tmp_path: Path) -> None:
    """In three runs, without a seed, for threads don't repeat. README says what came of more of them."""
    results = []
    for _ in range(3):
        printed = assert_runs(snippets(ROOT / "README.md", "python")[0], tmp_path)
        match = re.fullmatch(r"mean return before: (\d+), after: (\d+)\n", printed)
        assert match is not None, printed
        results.append((int(match[1]), int(match[2])))
    assert sorted(after for _, after in results)[1] >= 475, results


def test_the_first_snippet_is_the_same_everywhere() -> None:
    (first,) = snippets(ROOT / "docs/index.rst", "python")
    assert first.strip() == snippets(ROOT / "README.md", "python")[0].strip()


def assert_selects_tests(arguments: list[str]) -> None:
    """
    :param arguments: pytest's: files, ``-k`` and a part of a test's name, ``-m`` and a marker, or flags
    """
    files = [argument for argument in arguments if argument.endswith(".py")] or ["tests/test_docs.py"]
    source = "".join((ROOT / file).read_text() for file in files)
    if "-k" in arguments:
        assert re.search(rf"def test_\w*{arguments[arguments.index('-k') + 1].removeprefix('test_')}\w*\(", source), arguments
    if "-m" in arguments:
        assert arguments[arguments.index("-m") + 1] in {"slow", "not slow"}
    assert {argument for argument in arguments if argument.startswith("-")} <= {"-x", "-q", "-k", "-m"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    verbs = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)`", page.read_text())) <= verbs
    for line in "\n".join(snippets(page, "bash")).splitlines():
        command = line.split("#")[0].strip()
        if command.startswith("make "):
            assert command.split()[1] in verbs, command
        elif command.startswith("python -m sb3_a3c.compare "):
            make_parser().parse_args(shlex.split(command)[3:])
        elif command.startswith("python -m sb3_a3c.zoo "):
            assert shlex.split(command)[3] in ZOO_COMMANDS, command  # test_zoo.py runs them
        elif command.startswith(".venv/bin/python -m pytest "):
            assert_selects_tests(shlex.split(command)[3:])
        elif match := re.match(r"python (\S+\.py)", command):
            assert (ROOT / match[1]).is_file(), command
        elif match := re.fullmatch(r"pip install '\.\[([\w,]+)\]'", command):
            setup = ConfigParser()
            setup.read(ROOT / "setup.cfg")
            assert set(match[1].split(",")) <= set(setup["options.extras_require"]), command
        else:
            assert not command or command in _OTHER_COMMANDS, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_exist(page: Path) -> None:
    """A page names a file from the root of the repository or from the package; a test may be named without its folder."""
    for name in re.findall(r"`([\w/.]+\.(?:py|rst))`", page.read_text()):
        assert any((ROOT / folder / name).is_file() for folder in ("", "sb3_a3c", "tests")), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_files_exist(page: Path) -> None:
    """What is written as ``worker/worker.py: Worker.step``."""
    for file, name in re.findall(r"`([\w/]+)\.py:\s+([\w.]+)`", page.read_text()):
        found: object = import_module(f"sb3_a3c.{file.replace('/', '.').removesuffix('.__init__')}")
        for part in name.split("."):
            found = getattr(found, part)


PICTURES = sorted(set(re.findall(r"^\.\. plot:: (\S+)", "\n".join(page.read_text() for page in PAGES), re.MULTILINE)))


@pytest.fixture
def docs_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Sphinx makes them in docs/conf.py."""
    for folder in ("benchmarks", "docs"):
        monkeypatch.syspath_prepend(ROOT / folder)


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.usefixtures("docs_are_importable")
def test_pictures_can_be_drawn(name: str) -> None:
    """The one of a gradient's path reads names and calls from the code, and says which is gone."""
    with pyplot.rc_context():
        runpy.run_path(str(ROOT / "docs" / name))
        assert pyplot.get_fignums()
        pyplot.close("all")


@pytest.mark.usefixtures("docs_are_importable")
def test_the_time_lines_are_of_the_same_steps() -> None:
    """A2C's environments begin each step together, when the slowest has made its last one. A3C's never wait."""
    with pyplot.rc_context():
        drawn = runpy.run_path(str(ROOT / "docs/time_lines.py"))
        pyplot.close("all")
    times = [[1.0, 2.0, 1.0], [3.0, 1.0, 1.0]]
    assert drawn["synchronous"](times) == [[(0, 1), (3, 5), (5, 6)], [(0, 3), (3, 4), (5, 6)]]
    assert drawn["asynchronous"](times) == [[(0, 1), (1, 3), (3, 4)], [(0, 3), (3, 4), (4, 5)]]


@pytest.mark.usefixtures("docs_are_importable")
def test_linked_names_of_other_projects_exist(tmp_path: Path) -> None:
    inventories = import_module("inventories")
    names = {
        name
        for _, pages in inventories.NAMES.values()
        for roles in pages.values()
        for found in roles.values()
        for name in found
    }
    for name in names | {alias for aliases in inventories.ALIASES.values() for alias in aliases}:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module or "builtins"), attribute), name
    inventories.write_inventories(tmp_path)
    head, _, packed = (tmp_path / "numpy.inv").read_bytes().partition(b"using zlib.\n")
    assert head.startswith(b"# Sphinx inventory version 2\n")
    assert zlib.decompress(packed) == b"numpy.ndarray py:class 1 reference/generated/numpy.ndarray.html#numpy.ndarray -\n"


@pytest.mark.usefixtures("docs_are_importable")
def test_figures_are_those_of_the_benchmarks() -> None:
    """The build of the pages reads them from the tables, and fails if one is gone."""
    measured = import_module("measured").measured
    pages = [page for page in PAGES if page.suffix == ".rst"]
    roles = [role for page in pages for role in re.findall(r":measured:`([^`]+)`", page.read_text())]
    assert len(roles) > 30
    for role in roles:
        page, cell = role.split(": ", 1)
        row, column = cell.rsplit(": ", 1)
        assert re.search(r"\d", measured(page, row.split(" | "), column)), role
    with pytest.raises(LookupError, match="does not have one row A3C, 9 workers"):
        measured("throughput", ["A3C, 9 workers"], "Steps/s")


def test_the_api_page_has_all_names() -> None:
    page = (ROOT / "docs/api.rst").read_text()
    assert not [name for name in sb3_a3c.__all__ if not re.search(rf"(^    |`|exception:: ){name}\b", page, re.MULTILINE)]
