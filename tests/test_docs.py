"""README and docs are true: every Python snippet runs as a file, and every command, file and test that they name exists."""

import ast
import builtins
import os
import re
import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from textwrap import dedent

import pytest

from sb3_a3c.compare import make_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.rst"))]
_SNIPPETS = {
    ".md": re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL),
    ".rst": re.compile(r"^\.\. code-block:: (\w+)\n\n((?:(?: {4}.*)?\n)+)", re.MULTILINE),
}
#: Commands that are neither make's verbs nor examples nor extras; test_packaging.py installs the package.
_OTHER_COMMANDS = {
    "pip install .",
    "pip install --constraint constraints.txt .",
    "python3 -m venv .venv",
    "source .venv/bin/activate",
    'python -c "import sb3_a3c; print(sb3_a3c.__version__)"',
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
        pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name == "comparison.rst" else [])
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    verbs = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in "\n".join(snippets(page, "bash")).splitlines():
        command = line.split("#")[0].strip()
        if command.startswith("make "):
            assert command.split()[1] in verbs, command
        elif command.startswith("python -m sb3_a3c.compare "):
            make_parser().parse_args(shlex.split(command)[3:])
        elif match := re.fullmatch(r"\.venv/bin/python -m pytest -m slow -k (\w+)", command):
            assert f"def test_the_{match[1]}(" in Path(__file__).read_text(), command
        elif match := re.match(r"python (\S+\.py)", command):
            assert (ROOT / match[1]).is_file(), command
        elif match := re.fullmatch(r"pip install '\.\[([\w,]+)\]'", command):
            setup = ConfigParser()
            setup.read(ROOT / "setup.cfg")
            assert set(match[1].split(",")) <= set(setup["options.extras_require"]), command
        else:
            assert not command or command in _OTHER_COMMANDS, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_named_is_there(page: Path) -> None:
    known = {name for _, _, names in os.walk(ROOT / "sb3_a3c") for name in names} | {
        path.name for path in ROOT.glob("tests/*")
    }
    for name in re.findall(r"`([\w/]+\.(?:py|rst))`", page.read_text()):
        assert name in known or any((folder / name).is_file() for folder in (ROOT, ROOT / "sb3_a3c")), name
