"""Run the tests of the installed Stable-Baselines3 with A3C in A2C's place: with one worker, and with its default."""

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".conformance"


def fetch_tests() -> Path:
    """
    Get SB3's tests, which only its source distribution has.

    :return: The folder of the tests of the installed version
    """
    name = f"stable_baselines3-{version('stable-baselines3')}"
    tests = FOLDER / name / "tests"
    if not tests.is_dir():
        requirement = f"stable-baselines3=={version('stable-baselines3')}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        subprocess.run([*pip, "--dest", str(FOLDER), requirement], check=True)
        with tarfile.open(FOLDER / f"{name}.tar.gz") as archive:
            members = [
                member for member in archive.getmembers() if member.name.startswith((f"{name}/tests/", f"{name}/pyproject"))
            ]
            archive.extractall(FOLDER / "new", members, filter="data")
        (FOLDER / "new" / name).rename(FOLDER / name)  # whole or not at all
    return tests


def run_tests(tests: Path, workers: str) -> int:
    """
    :param tests: The folder of SB3's tests
    :param workers: "one" or "default"
    :return: pytest's exit status
    """
    files = sorted(str(path) for path in tests.glob("test_*.py") if "A2C" in path.read_text())
    environment = {**os.environ, "PYTHONPATH": str(HERE), "A3C_WORKERS": workers}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "plugin",
        "-q",
        "-rs",
        "--timeout=600",
        *files,
        *sys.argv[1:],
    ]
    return subprocess.run(command, env=environment, cwd=tests.parent).returncode


if __name__ == "__main__":
    tests = fetch_tests()
    sys.exit(max(run_tests(tests, workers) for workers in ("one", "default")))
