"""The comparison as a command: it runs, continues after an interruption, and rejects bad input before anything runs."""

import csv
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import psutil
import pytest
from filelock import FileLock
from gymnasium.envs.classic_control import CartPoleEnv
from stable_baselines3 import A2C

from sb3_a3c.compare import compare, main, make_parser
from sb3_a3c.comparison import session
from sb3_a3c.comparison.errors import BadArgument, RunFailed
from sb3_a3c.comparison.processes import Failure, run_in_processes
from sb3_a3c.comparison.provenance import Provenance
from sb3_a3c.comparison.run import RunSpec, Stage, carry_out

COMMAND = [sys.executable, "-W", "error", "-m", "sb3_a3c.compare"]
PENDULUM = ["--env", "Pendulum-v1", "--timesteps", "800", "--eval-interval", "400", "--n-eval-episodes", "2"]
SETTINGS = """\
Pendulum-v1:
  n_envs: 2
  n_timesteps: !!float 1e6
  normalize: true
  policy: 'MlpPolicy'
  learning_rate: lin_7e-4
"""


class Troubled(CartPoleEnv):
    """Fails with seed 1, and kills its process with seed 2."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed == 1:
            raise OSError("no such pole")
        if seed == 2:
            signal.raise_signal(signal.SIGKILL)
        return super().reset(seed=seed, options=options)


gym.register("Troubled-v0", entry_point=Troubled, max_episode_steps=20, reward_threshold=5.0)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def run_in_this_process(specs: Sequence[RunSpec], jobs: int, handle: Callable[[RunSpec, Any], None]) -> None:
    """In place of ``run_in_processes``, because it takes seconds to start a process."""

    for spec in specs:

        def report(stage: Stage, spec: RunSpec = spec) -> None:
            handle(spec, stage)

        report(Stage("starts", 0.0))
        try:
            handle(spec, carry_out(spec, Provenance.here(jobs), report))
        except OSError:
            handle(spec, Failure(traceback.format_exc()))


def test_a_folder_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Finished runs are kept, failed ones are made again, and seeds can be added."""
    monkeypatch.setattr(session, "run_in_processes", run_in_this_process)
    arguments: dict[str, Any] = dict(env="test_compare:Troubled-v0", algos=["a2c"], timesteps=50, n_envs=1, out=tmp_path)
    first = tmp_path / "runs" / "a2c-seed0.json"
    seen = set()
    for _ in range(2):
        with pytest.raises(RunFailed, match=r"a2c seed 1 failed:\nTraceback[\s\S]*OSError: no such pole"):
            compare(seeds=2, **arguments)
        assert "2 of 2 runs" in capsys.readouterr().err
        seen.add((first.read_bytes(), first.stat().st_mtime_ns))
        assert [row["seed"] for row in rows_of(tmp_path / "runs.csv")] == ["0"]
        assert "a2c seed 1 failed and is not in any figure: OSError: no such pole" in (tmp_path / "report.md").read_text()
    assert len(seen) == 1
    with pytest.raises(BadArgument, match="timesteps is 50 there and 60 here"):
        compare(**{**arguments, "timesteps": 60})

    main(
        ["--env", "test_compare:Troubled-v0", "--algos", "a2c", "--seeds", "1", "--timesteps", "50", "--n-envs", "1"]
        + ["--out", str(tmp_path)]
    )
    printed = capsys.readouterr()
    assert "Final return" in printed.out and printed.out.endswith(f"{tmp_path / 'report.html'}\n") and not printed.err
    assert "failed" not in (tmp_path / "report.md").read_text()


def test_a_run_whose_process_is_killed_is_a_failure() -> None:
    spec = RunSpec("test_compare:Troubled-v0", "a2c", 2, 50, {"n_envs": 1, "policy": "MlpPolicy"}, 50, 1, 1)
    messages: list[Any] = []
    run_in_processes([spec], jobs=1, handle=lambda spec, message: messages.append(message))
    assert messages == [Stage("starts", 0.0), Failure("its process died, with exit code -9")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "returncode"), [("SIGINT", 130), ("SIGKILL", -signal.SIGKILL)])
def test_it_continues_where_it_was_interrupted(name: str, returncode: int, tmp_path: Path) -> None:
    (tmp_path / "a3c.yml").write_text(SETTINGS)
    out = tmp_path / "out"
    options = ["--algos", "a3c", "a2c", "--seeds", "1", "--settings", f"a3c={tmp_path / 'a3c.yml'}", "--threshold", "-2000"]
    command = [*COMMAND, *PENDULUM, *options, "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        first = out / "runs" / "a3c-seed0.json"
        deadline = time.monotonic() + 600
        while not first.exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        children: list[psutil.Process] = []
        while not any("spawn_main" in " ".join(child.cmdline()) for child in children):  # the second run is at work
            assert time.monotonic() < deadline and process.poll() is None
            children = psutil.Process(process.pid).children(recursive=True)
        for reached in [*children, psutil.Process(process.pid)] if name == "SIGINT" else [process]:  # as Ctrl-C does
            reached.send_signal(getattr(signal, name))
        _, stderr = process.communicate(timeout=600)
    assert process.returncode == returncode, stderr
    assert name == "SIGKILL" or ("Interrupted" in stderr and "Traceback" not in stderr)
    gone, alive = psutil.wait_procs(children, timeout=600)
    assert not alive, f"{len(alive)} of {len(gone) + len(alive)} processes outlive it"
    assert [path.name for path in out.rglob("*.*") if path.name != ".lock"] == ["a3c-seed0.json"]

    before = first.read_bytes(), first.stat().st_mtime_ns
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before
    assert "2 of 2 runs" in finished.stderr and "report.html" in finished.stdout
    files = ["curves.csv", "evaluations.csv", "learning_curves.png", "report.html", "report.md", "runs.csv"]
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == files
    assert [(row["algorithm"], row["timesteps"]) for row in rows_of(out / "runs.csv")] == [("a3c", "800"), ("a2c", "800")]
    episodes = Counter((row["algorithm"], int(row["timesteps"])) for row in rows_of(out / "evaluations.csv"))
    assert set(episodes.values()) == {2}
    steps = {name: sorted(at for algorithm, at in episodes if algorithm == name) for name in ("a2c", "a3c")}
    assert steps["a2c"] == [0, 400, 800]
    # A3C's workers may have made all steps when its callback sees 400. Then there is one evaluation for both.
    assert steps["a3c"][0] == 0 and steps["a3c"][-1] == 800 and len(steps["a3c"]) in (2, 3)


@pytest.mark.slow
def test_a_run_that_fails_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments: dict[str, Any] = dict(env="test_compare:Troubled-v0", algos=["a2c"], timesteps=50, n_envs=1)
    arguments |= dict(out=tmp_path, jobs=3)
    with pytest.raises(RunFailed) as raised:
        compare(seeds=3, **arguments)
    assert "a2c seed 1 failed" in str(raised.value) and "OSError: no such pole" in str(raised.value)
    assert "a2c seed 2 failed:\nits process died, with exit code -9" in str(raised.value)
    assert [row["seed"] for row in rows_of(tmp_path / "runs.csv")] == ["0"]
    report = (tmp_path / "report.html").read_text()
    assert "a2c seed 1 failed and is not in any figure: OSError: no such pole" in report
    assert "slowed each other down" in report
    assert "3 of 3 runs" in capsys.readouterr().err

    # A finished run is not made again.
    (summary,) = compare(seeds=1, **arguments, progress_bar=False)
    assert (summary.algorithm, summary.threshold, summary.n_reached) == ("a2c", 5.0, 1)
    assert not capsys.readouterr().err


BAD_INPUT = {
    "no such algorithm": (["--algos", "a4c"], ["algos", "'a4c'", "'a2c', 'a3c', 'ppo'"]),
    "no such class": (["--algos", "stable_baselines3:A4C"], ["algos", "'stable_baselines3:A4C'", "A4C"]),
    "no such module": (["--algos", "no_such_module:A"], ["algos", "'no_such_module:A'"]),
    "no algorithm's class": (["--algos", "stable_baselines3.common.monitor:Monitor"], ["algos", "module:Class"]),
    "an algorithm twice": (["--algos", "a2c", "a2c"], ["algos", "without repetitions", "['a2c', 'a2c']"]),
    "no such environment": (["--env", "Pendulumm-v1"], ["env", "'Pendulumm-v1'", "Pendulum"]),
    "unsuitable environment": (["--algos", "stable_baselines3:DQN"], ["DQN can't be made", "Discrete"]),
    "seeds": (["--seeds", "0"], ["seeds", "at least 1", "0"]),
    "seeds in words": (["--seeds", "five"], ["--seeds", "'five'"]),
    "timesteps": (["--timesteps", "-5"], ["timesteps", "at least 1", "-5"]),
    "eval_interval": (["--eval-interval", "801"], ["eval_interval", "at most", "800", "801"]),
    "n_eval_episodes": (["--n-eval-episodes", "0"], ["n_eval_episodes", "at least 1", "0"]),
    "n_envs": (["--n-envs", "0"], ["n_envs", "at least 1", "0"]),
    "num_threads": (["--num-threads", "0"], ["num_threads", "at least 1", "0"]),
    "jobs": (["--jobs", "0"], ["jobs", "at least 1", "0"]),
    "threshold": (["--threshold", "nan"], ["threshold", "finite", "nan"]),
    "settings without a file": (["--settings", "a2c"], ["settings", "ALGO=FILE", "'a2c'"]),
    "settings of another": (["--settings", "ppo=a.yml"], ["settings", "['a2c']", "'ppo'"]),
    "no such file": (["--settings", "a2c=no_such.yml"], ["settings", "'no_such.yml'", "No such file"]),
    "no folder": (["--out", "a_file"], ["out", "folder", "'a_file'"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a_file").touch()
    options, words = BAD_INPUT[case]
    _fails([*PENDULUM, "--algos", "a2c", "--out", "out", *options], words, capsys)
    assert not Path("out").exists()


BAD_FILES = {
    "not YAML": ("a: [", ["a2c.yml", "not YAML"]),
    "not of that form": ("- n_envs", ["a2c.yml", "environment ids"]),
    "no entry": ("CartPole-v1: {}", ["a2c.yml", "'Pendulum-v1'", "'default'", "['CartPole-v1']"]),
    "unknown key": ("Pendulum-v1: {n_stepz: 5}", ["a2c", "'n_stepz'", "'n_steps'"]),
    "bad n_envs": ("Pendulum-v1: {n_envs: none}", ["n_envs", "at least 1", "'none'"]),
    "bad value": ("Pendulum-v1: {n_steps: many}", ["n_steps", "'many'", "5"]),
    "bad schedule": ("Pendulum-v1: {learning_rate: lin_fast}", ["learning_rate", "'lin_fast'", "lin_ and a number"]),
    "bad Python": ("Pendulum-v1: {policy_kwargs: 'dict(net_arch=open)'}", ["policy_kwargs", "'dict(net_arch=open)'", "'nn'"]),
    "bad wrapper": ("Pendulum-v1: {env_wrapper: gymnasium.NoWrapper}", ["env_wrapper", "'gymnasium.NoWrapper'"]),
    "bad policy": ("Pendulum-v1: {policy: MpPolicy}", ["a2c.yml", "MpPolicy"]),
    "not plain": ("Pendulum-v1: {policy: 2026-01-01}", ["a2c", "numbers, text, lists and dicts"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_settings(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    text, words = BAD_FILES[case]
    Path("a2c.yml").write_text(text)
    _fails([*PENDULUM, "--algos", "a2c", "--out", "out", "--settings", "a2c=a2c.yml"], words, capsys)
    assert not Path("out").exists()


def test_timesteps_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _fails(["--env", "CartPole-v1", "--out", str(tmp_path / "out")], ["timesteps", "a3c", "n_timesteps"], capsys)


def test_the_folder_of_another_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a2c-seed0.json").write_text("{}")
    options = [*PENDULUM, "--algos", "a2c", "--out", str(tmp_path)]
    _fails(options, ["out", "a2c-seed0.json", "remove it"], capsys)
    with FileLock(tmp_path / "runs" / ".lock"):
        _fails(options, ["out", "another comparison is using", str(tmp_path)], capsys)


def test_a_script_without_a_guard_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that multiprocessing is starting imports the script."""
    monkeypatch.setattr("multiprocessing.process._current_process._inheriting", True, raising=False)
    with pytest.raises(RuntimeError, match="__main__"):
        compare("CartPole-v1", timesteps=100)


WITHOUT_THE_EXTRA = """
import sys
for name in ("filelock", "jinja2", "matplotlib", "pandas", "rich", "scipy", "tensorboard", "tqdm", "yaml"):
    sys.modules[name] = None
from sb3_a3c.compare import main
for options in (["--help"], {options!r}):
    try:
        main(options)
    except SystemExit as error:
        print("exit code", error.code)
"""


def test_without_the_extra_there_is_help_and_a_line_that_names_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = WITHOUT_THE_EXTRA.format(options=[*PENDULUM, "--out", str(out)])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0 and run.stderr.splitlines() == [
        "A comparison needs the extra 'compare' (missing: filelock, jinja2, matplotlib, pandas, scipy, tqdm, yaml). "
        "In a clone of sb3_a3c: pip install '.[compare]'"
    ]
    assert not out.exists()
    printed, *codes = run.stdout.split("exit code")
    assert [int(code) for code in codes] == [0, 1]
    assert "--settings ALGO=FILE" in printed and "--settings a3c=a3c.yml" in printed and "n_envs: 8" in printed


def test_the_function_has_the_command_s_options(tmp_path: Path) -> None:
    options = vars(make_parser().parse_args(["--env", "CartPole-v1"]))
    options["settings"] = None
    defaults = dict(zip(compare.__code__.co_varnames, [None, *(compare.__defaults__ or ())], strict=False))
    assert {name: defaults[name] for name in options if name != "env"} == {k: v for k, v in options.items() if k != "env"}
    with pytest.raises(BadArgument, match="algos must be a list"):
        compare("CartPole-v1", algos="a2c", timesteps=100, out=tmp_path)
    with pytest.raises(BadArgument, match=r"algos must be names among .*, but one is <class"):
        compare("CartPole-v1", algos=[A2C], timesteps=100, out=tmp_path)  # type: ignore[list-item]


def _fails(options: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(options)
    assert raised.value.code == 2
    message = capsys.readouterr().err.partition("error: ")[2]
    assert not [word for word in words if word not in message], message
