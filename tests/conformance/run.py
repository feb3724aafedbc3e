"""
Run the tests of the installed Stable-Baselines3 with A3C in A2C's place, with one worker and with its default, and those of
sb3_contrib with A3C in RecurrentPPO's place.
"""

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".conformance"
#: Stand-ins for an algorithm, see ``plugin.py``, and the package whose tests they run, and the algorithm's name.
RUNS = {
    "one": ("stable_baselines3", "A2C"),
    "default": ("stable_baselines3", "A2C"),
    "recurrent": ("sb3_contrib", "RecurrentPPO"),
}


def fetch_tests(package: str) -> Path:
    """
    Get a package's tests, which only its source distribution has.

    :param package: The package
    :return: The folder of the tests of the installed version
    """
    name = f"{package}-{version(package)}"
    tests = FOLDER / name / "tests"
    if not tests.is_dir():
        requirement = f"{package}=={version(package)}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        subprocess.run([*pip, "--dest", str(FOLDER), requirement], check=True)
        with tarfile.open(FOLDER / f"{name}.tar.gz") as archive:
            members = [
                member for member in archive.getmembers() if member.name.startswith((f"{name}/tests/", f"{name}/pyproject"))
            ]
            archive.extractall(FOLDER / "new", members, filter="data")
        (FOLDER / "new" / name).rename(FOLDER / name)  # whole or not at all
    return tests


def run_tests(stand_in: str) -> int:
    """
    :param stand_in: A key of ``RUNS``
    :return: pytest's exit status
    """
    package, algorithm = RUNS[stand_in]
    tests = fetch_tests(package)
    files = sorted(str(path) for path in tests.glob("test_*.py") if algorithm in path.read_text())
    environment = {**os.environ, "PYTHONPATH": str(HERE), "A3C_STAND_IN": stand_in}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "plugin",
        "-q",
        "-rs",
        "-o",
        "faulthandler_timeout=300",
        *files,
        *sys.argv[1:],
    ]
    return subprocess.run(command, env=environment, cwd=tests.parent).returncode


if __name__ == "__main__":
    sys.exit(max(map(run_tests, RUNS)))
