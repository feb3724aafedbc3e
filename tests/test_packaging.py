"""What is installed is whole: modules, the mark that they are typed, and metadata. A source distribution has all files."""

import subprocess
import sys
import tarfile
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

import sb3_a3c

ROOT = Path(__file__).parents[1]
_BUILD = "import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that git tracks, since building leaves files behind, which the next build would take up."""
    folder = tmp_path_factory.mktemp("source")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def tracked() -> set[str]:
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode != 0:
        pytest.skip("this is not a clone: git does not tell which files there are")
    return {name for name in run.stdout.split("\0") if name and (ROOT / name).is_file()}


def build(source: Path, kind: str, out: Path) -> Path:
    run = subprocess.run(
        [sys.executable, "-c", _BUILD.format(kind=kind), str(out)], cwd=source, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    (built,) = out.iterdir()
    return built


def test_the_wheel_is_whole(source: Path, tmp_path: Path) -> None:
    with ZipFile(build(source, "wheel", tmp_path)) as archive:
        names = set(archive.namelist())
        (metadata_name,) = (name for name in names if name.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(metadata_name).decode())
    assert {name for name in names if name.startswith("sb3_a3c/")} == {
        name for name in tracked() if name.startswith("sb3_a3c/")
    }
    assert (metadata["Name"], metadata["Version"]) == ("sb3_a3c", sb3_a3c.__version__)
    assert metadata["License-Expression"] == "MIT" and any(name.endswith("LICENSE") for name in names)
    assert {"tests", "docs", "lint", "extra", "compare", "zoo"} <= set(metadata.get_all("Provides-Extra"))


def test_the_source_distribution_has_all_files(source: Path, tmp_path: Path) -> None:
    """So that its user can run the tests, build the docs and read the changelog."""
    with tarfile.open(build(source, "sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked() - {".gitignore"} <= names
    assert not [name for name in names if name.endswith((".pyc", ".zip", ".so")) or "_build" in name]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == sb3_a3c.__version__ and citation["license"] == "MIT"


@pytest.mark.slow
def test_a_strict_type_checker_accepts_a_program_that_uses_the_package() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "tests/downstream.py"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
