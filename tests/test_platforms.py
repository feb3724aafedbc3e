"""The package can be imported where there is no fcntl (Windows), and says what does not work there; macOS lacks less."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: What Python does not have there. A ``sitecustomize`` module removes it in worker processes too.
WITHOUT = {
    "Windows": """
import multiprocessing.reduction, os, signal, sys
sys.modules["fcntl"] = sys.modules["pwd"] = sys.modules["resource"] = None
del os.sched_getaffinity, os.pidfd_open
del multiprocessing.reduction.DupFd, signal.SIGKILL, signal.pthread_sigmask, signal.pidfd_send_signal
sys.modules["multiprocessing.forkserver"] = None
os.process_cpu_count = os.cpu_count  # from Python 3.13 on, it asks for the affinity where there is one
""",
    "macOS": """
import fcntl, os, signal
del os.sched_getaffinity, os.pidfd_open, signal.pidfd_send_signal, fcntl.F_SETSIG
os.process_cpu_count = os.cpu_count
""",
}


def run(platform: str, program: str, folder: Path) -> subprocess.CompletedProcess:
    (folder / "sitecustomize.py").write_text(WITHOUT[platform])
    script = folder / "script.py"
    script.write_text(program)
    paths = [str(folder), str(Path(__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, script], env=environment, cwd=folder, capture_output=True, text=True, timeout=600)


LEARNS = """
from sb3_a3c import A3C
import sb3_a3c.compare

for backend in ("thread", "serial"):
    A3C("MlpPolicy", "CartPole-v1", n_workers=2, backend=backend, engine="torch").learn(100)
try:
    A3C("MlpPolicy", "CartPole-v1", n_workers=2, backend="process", engine="torch")
except ValueError as error:
    print(error)
try:
    sb3_a3c.compare.main(["--env", "CartPole-v1", "--out", "out", "--timesteps", "100"])
except SystemExit as error:
    print(error.code)
"""


def test_windows_has_threads_and_is_told_about_processes(tmp_path: Path) -> None:
    result = run("Windows", LEARNS, tmp_path)
    assert result.returncode == 0, result.stderr
    message, code = result.stdout.splitlines()
    assert message.startswith("backend must be 'thread' or 'serial' on") and "fcntl" in message
    assert code == "2" and "a comparison needs Linux or macOS" in result.stderr


PROCESSES = """
from sb3_a3c import A3C

if __name__ == "__main__":
    model = A3C("MlpPolicy", "CartPole-v1", n_workers=2, backend="process", engine="torch").learn(100)
    print(model.num_timesteps)
"""


@pytest.mark.slow
def test_macos_has_processes(tmp_path: Path) -> None:
    result = run("macOS", PROCESSES, tmp_path)
    assert (result.stdout, result.returncode) == ("100\n", 0), result.stderr
