"""What is installed is whole: every module, the mark that it is typed, and the metadata."""

import shutil
import subprocess
import sys
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import sb3_a3c

ROOT = Path(__file__).parents[1]


def test_the_wheel_is_whole(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy, for building leaves files behind, which the next build would take up
    shutil.copytree(ROOT / "sb3_a3c", source / "sb3_a3c", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(pip, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata_name,) = (name for name in names if name.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(metadata_name).decode())
    package = ROOT / "sb3_a3c"
    expected = {
        str(path.relative_to(ROOT)) for path in [*package.rglob("*.py"), *package.rglob("*.jinja"), package / "py.typed"]
    }
    assert {name for name in names if name.startswith("sb3_a3c/")} == expected
    assert (metadata["Name"], metadata["Version"]) == ("sb3_a3c", sb3_a3c.__version__)
    assert metadata["License"] == "MIT" and any(name.endswith("LICENSE") for name in names)
    assert {"tests", "docs", "lint", "extra", "compare"} <= set(metadata.get_all("Provides-Extra"))
