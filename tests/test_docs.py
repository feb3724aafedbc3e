"""README and docs are true: every Python snippet runs, every command is one that exists, every file and test they name too."""

import os
import re
import shlex
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
#: Commands that are neither make's verbs nor examples; test_packaging.py installs the package.
_OTHER_COMMANDS = {"pip install ."}


def snippets(page: Path, language: str) -> list[str]:
    return [dedent(text) for found, text in _SNIPPETS[page.suffix].findall(page.read_text()) if found == language]


def test_there_are_snippets() -> None:
    assert len(snippets(ROOT / "README.md", "python")) >= 2 and len(snippets(ROOT / "docs/quickstart.rst", "python")) >= 4


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page, "python")], ids=lambda page: page.name)
def test_python_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a page one after another, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sb3_a3c.env_slices._DECLARATIONS", dict(__import__("sb3_a3c.env_slices").env_slices._DECLARATIONS))
    names: dict[str, object] = {"__name__": "__main__"}  # for guards
    for text in snippets(page, "python"):
        exec(compile(text, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    verbs = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in "\n".join(snippets(page, "bash")).splitlines():
        command = line.split("#")[0].strip()
        if command.startswith("make "):
            assert command.split()[1] in verbs, command
        elif command.startswith("python -m sb3_a3c.compare "):
            make_parser().parse_args(shlex.split(command)[3:])
        elif match := re.match(r"python (\S+\.py)", command):
            assert (ROOT / match[1]).is_file(), command
        else:
            assert not command or command in _OTHER_COMMANDS, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_named_is_there(page: Path) -> None:
    known = {name for _, _, names in os.walk(ROOT / "sb3_a3c") for name in names} | {
        path.name for path in ROOT.glob("tests/*")
    }
    for name in re.findall(r"`([\w/]+\.(?:py|rst))`", page.read_text()):
        assert name in known or any((folder / name).is_file() for folder in (ROOT, ROOT / "sb3_a3c")), name
