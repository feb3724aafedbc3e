"""Workers on Ray: what is promised of all backends, what Ray adds, and that nothing is left of a run."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch as th
import yaml
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from test_interrupts import Interrupt, Tracer

from sb3_a3c import A3C, WorkerDied, record
from sb3_a3c.backends.process.failures import WorkerTraceback
from sb3_a3c.backends.ray.bfloat16 import copy_gradient, to_bfloat16
from sb3_a3c.backends.ray.parts import LARGEST_VECTOR, count_parts, join, split
from sb3_a3c.backends.ray.shared_vector import SharedVector
from sb3_a3c.system.extras import MissingExtra

pytest.importorskip("ray")
shares_ray = pytest.mark.usefixtures("local_ray")
REPLACED = r"ignore:the actor of worker .* has died"


class Counting(gym.Wrapper):
    """Tells its process and its steps; can wait, raise or end its process."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(gym.make("CartPole-v1"))
        self.seconds, self.n_steps, self.fails_at = seconds, 0, 0

    def step(self, action: Any) -> Any:
        self.n_steps += 1
        time.sleep(self.seconds)
        if self.n_steps == self.fails_at:
            raise OSError(28, "the simulator is out of space")
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, {**info, "pid": os.getpid(), "n_steps": self.n_steps}

    def place(self) -> tuple[int, int]:
        return os.getpid(), self.n_steps


class Watching(BaseCallback):
    """Notes all that it sees, and does something at each step."""

    def __init__(self, act: Callable[["Watching"], Any] = lambda watching: None) -> None:
        super().__init__()
        self.act = act
        self.pids: dict[int, int] = {}
        self.n_steps_seen: defaultdict[tuple[int, int], list[int]] = defaultdict(list)

    def _on_step(self) -> bool:
        for env, info in zip(self.locals["env_indices"].tolist(), self.locals["infos"], strict=True):
            self.pids[env] = info["pid"]
            self.n_steps_seen[env, info["pid"]].append(info["n_steps"])
        return self.act(self) is not False

    def check(self) -> None:
        """Of each process a beginning without gaps, each step once."""
        for seen in self.n_steps_seen.values():
            assert sorted(seen) == list(range(1, len(seen) + 1))


def make_env(n_envs: int = 4, seconds: float = 0.0) -> DummyVecEnv:
    return DummyVecEnv([lambda: Counting(seconds)] * n_envs)


def make_model(env: Any = None, n_workers: int = 2, **kwargs: Any) -> A3C:
    return A3C("MlpPolicy", make_env() if env is None else env, n_workers=n_workers, backend="ray", seed=0, **kwargs)


def actors(program: int | None = None) -> list[psutil.Process]:
    return [p for p in psutil.Process(program).children(recursive=True) if "WorkerActor" in command_line(p)]


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


@pytest.mark.parametrize("size", [1, 10_000, 26_000, 262_144, 262_145])
@pytest.mark.parametrize("n_bytes", [0, 5_000, 3_000_000])
def test_parts_are_small_enough_for_ray_and_join_to_what_was_split(size: int, n_bytes: int) -> None:
    rng = np.random.default_rng(0)
    vector, message = rng.normal(size=size).astype(np.float32), rng.bytes(n_bytes)
    n_parts = count_parts(vector)
    parts = split(message, vector, n_parts)
    assert len(parts) == n_parts
    if n_bytes < 10_000 and vector.nbytes <= LARGEST_VECTOR:
        # A result must be smaller than this; an argument may be as large.
        assert all(len(part) < 100 * 1024 for part in parts)
    else:  # where it is large, all is in the last part: Ray says that it is there, and the others are there too
        assert not any(parts[:-1])
    for content in (vector, vector.astype(np.float64), None):
        joined, same = join(split(message, content, n_parts))
        assert bytes(joined) == message
        if content is None:
            assert same is None
        else:
            assert same is not None and same.dtype == content.dtype and not (same is not content and same.flags.writeable)
            np.testing.assert_array_equal(same, content)


@pytest.fixture(autouse=True)
def no_actor_is_left() -> Iterator[None]:
    yield
    assert not actors()


@shares_ray
@pytest.mark.parametrize("rollout_order", ["env", pytest.param("arrival", marks=pytest.mark.slow)])
def test_counts_are_exact_and_callbacks_see_each_step_once(rollout_order: Any, tmp_path: Path) -> None:
    """Two runs: the environments go on where they were, and so do the files of Monitor."""
    env = DummyVecEnv([partial(Monitor, Counting(), str(tmp_path / str(n))) for n in range(5)])
    model, watching = make_model(env, rollout_order=rollout_order), Watching()
    model.learn(101, watching)
    assert model.num_timesteps == watching.num_timesteps == 125 and model._n_updates == 2 * 5
    n_actors = len(set(watching.pids.values()))
    assert n_actors == 2 or (rollout_order == "arrival" and n_actors == 1)  # one may be there before the other
    assert os.getpid() not in watching.pids.values()
    watching.check()
    model.learn(1_000, reset_num_timesteps=False)
    assert model.num_timesteps == 1_125
    n_steps = [n_steps for _, n_steps in env.env_method("place")]
    assert sum(n_steps) == 1_125 and (rollout_order == "arrival" or n_steps == [225] * 5)
    unfinished = sum(len(rewards) for rewards in env.get_attr("rewards"))
    env.close()
    assert load_results(str(tmp_path))["l"].sum() + unfinished == 1_125


@shares_ray
def test_callbacks_read_and_write(tmp_path: Path) -> None:
    """Parameters, learning rate and environments; evaluation, checkpoints in mid-run, and a run that goes on from one."""
    env = VecNormalize(make_env())
    model = make_model(env, max_lead=0)
    rates: list[float] = []

    def act(watching: Watching) -> None:
        if watching.n_calls == 20:
            with th.no_grad():
                model.policy.value_net.bias += 1000.0
            model.lr_schedule = lambda _: 0.0
            model.save(tmp_path / "model")
            env.save(str(tmp_path / "statistics"))
            env.set_attr("seconds", 0.001)
            assert env.env_method("place", indices=[3])[0][0] == watching.pids[3]
        if watching.n_calls == 35:
            rates.append(model.policy.optimizer.param_groups[0]["lr"])
            assert env.get_attr("seconds") == [0.001] * 4

    evaluation = EvalCallback(VecNormalize(make_vec_env("CartPole-v1"), training=False), eval_freq=15, verbose=0)
    model.learn(200, [Watching(act), evaluation])
    assert rates == [0.0] and model.policy.value_net.bias.item() == pytest.approx(1000, abs=1)
    assert evaluation.n_calls == 50 and np.isfinite(evaluation.last_mean_reward)
    assert env.obs_rms.count == pytest.approx(4 + 200 + 1e-4, abs=1e-6)
    loaded = A3C.load(tmp_path / "model", VecNormalize.load(str(tmp_path / "statistics"), make_env()))
    assert loaded.backend == "ray" and loaded.num_timesteps == 80
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded.num_timesteps == 120
    evaluate_policy(loaded, loaded.env, n_eval_episodes=1, warn=False)


@shares_ray
def test_a_run_that_ends_early_leaves_the_model_whole() -> None:
    """By an error of an environment, which is the caller's; by Ctrl-C while the main thread waits; by a callback."""
    env = make_env(seconds=0.02)
    model = make_model(env)
    env.envs[3].fails_at = 33
    with pytest.raises(OSError, match="the simulator is out of space") as raised:
        model.learn(1_000_000)
    assert raised.value.errno == 28 and isinstance(raised.value.__cause__, WorkerTraceback)
    assert "raised in worker 1 of A3C, environment 3" in raised.value.__notes__[0]
    assert "in step" in str(raised.value.__cause__)
    env.set_attr("fails_at", 0)

    def interrupt_soon(watching: Watching) -> None:
        if watching.n_calls == 1:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        model.learn(1_000_000, Watching(interrupt_soon))
    env.set_attr("seconds", 0.0)
    model.learn(1_000_000, Watching(lambda watching: watching.n_calls < 17))
    assert model.num_timesteps == 17 * 4
    before = env.env_method("place")
    model.learn(40, reset_num_timesteps=False)
    assert model.num_timesteps == 108
    assert all(n_steps == n + 10 for (_, n), (_, n_steps) in zip(before, env.env_method("place"), strict=True))


@pytest.mark.slow
@shares_ray
def test_ctrl_c_in_a_callback() -> None:
    def interrupt(_: Watching) -> None:
        raise KeyboardInterrupt

    model = make_model()
    with pytest.raises(KeyboardInterrupt):
        model.learn(100_000, Watching(interrupt))
    model.learn(40)
    assert model.num_timesteps == 40


@shares_ray
@pytest.mark.filterwarnings(REPLACED)
def test_an_actor_that_is_killed_is_replaced() -> None:
    def act(watching: Watching) -> None:
        if watching.n_calls == 20:
            os.kill(watching.pids[0], signal.SIGKILL)

    model, watching = make_model(make_env(seconds=0.001), max_lead=2), Watching(act)
    with pytest.warns(UserWarning, match=r"the actor of worker 0, which steps environments 0 to 1, has died \(.*restart 1 of"):
        model.learn(400, watching)
    assert model.num_timesteps == 400 and model._n_updates == 2 * 20
    watching.check()


@shares_ray
@pytest.mark.filterwarnings(REPLACED)
def test_not_more_often_than_is_allowed() -> None:
    killed: set[int] = set()

    def kill(watching: Watching) -> None:
        if watching.pids[0] not in killed:
            killed.add(watching.pids[0])
            os.kill(watching.pids[0], signal.SIGKILL)

    model = make_model(make_env(seconds=0.001), max_lead=0, backend_kwargs=dict(max_restarts=1))
    with pytest.raises(WorkerDied, match=r"worker 0(.|\n)*max_restarts=1 is reached"):
        model.learn(100_000, Watching(kill))
    assert len(killed) == 2


@pytest.mark.slow
@shares_ray
@pytest.mark.parametrize("width", [256, 600])
def test_large_vectors_arrive_as_small_ones(width: int) -> None:
    """In several parts, and through the object store. The first rollout has the parameters that the model began with."""
    model = make_model(policy_kwargs=dict(net_arch=[width] * 2), learning_rate=0.0, backend_kwargs=dict(n_in_flight=1))
    before = th.nn.utils.parameters_to_vector(model.policy.parameters()).detach().clone()
    assert (4 * len(before) > LARGEST_VECTOR) == (width == 600) and 4 * len(before) > 2 * 100 * 1024
    values = []

    def look(watching: Watching) -> None:
        obs, shown = watching.locals["obs_tensor"], watching.locals["values"]
        with th.no_grad():
            values.append((shown.flatten(), model.policy.predict_values(obs).flatten()))

    model.learn(400, Watching(look))
    for shown, computed in values:
        th.testing.assert_close(shown, computed, rtol=1e-4, atol=1e-5)
    model.learning_rate = 7e-4
    model._setup_lr_schedule()
    model.learn(400)
    after = th.nn.utils.parameters_to_vector(model.policy.parameters()).detach()
    assert model._n_updates == 2 * 40 and not th.equal(before, after) and bool(after.isfinite().all())


def test_bfloat16_is_that_of_torch() -> None:
    gradient = np.random.default_rng(0).normal(size=1_000).astype(np.float32) * np.float32(1e-6)
    gradient[:4] = 0.0, -1e-38, 3e38, np.nan
    sent, received = to_bfloat16(gradient), np.empty_like(gradient)
    sent.flags.writeable = False
    copy_gradient(sent, received)
    assert sent.nbytes == gradient.nbytes / 2
    np.testing.assert_array_equal(received, th.from_numpy(gradient).to(th.bfloat16).float().numpy())
    np.testing.assert_allclose(received, gradient, rtol=1 / 256)
    copy_gradient(to_bfloat16(gradient.astype(np.float64)), in_float64 := np.empty(1_000))
    np.testing.assert_array_equal(in_float64, received)


@shares_ray
def test_gradients_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the bytes arrive, and the run counts and learns as with others. A run that is recorded gets all bytes."""
    received = []
    push = SharedVector.push

    def note(shared: SharedVector, stepped: Any, gradient: np.ndarray, version: int) -> Any:
        received.append(gradient.dtype)
        return push(shared, stepped, gradient, version)

    monkeypatch.setattr(SharedVector, "push", note)
    model = make_model(backend_kwargs=dict(gradient_dtype="bfloat16"))
    before = model.policy.state_dict()["value_net.weight"].clone()
    model.learn(400)
    after = model.policy.state_dict()["value_net.weight"]
    assert model._n_updates == len(received) == 2 * 20 and set(received) == {np.dtype(np.int16)}
    assert not th.equal(before, after) and bool(after.isfinite().all())
    received.clear()
    with record(model):
        model.learn(400)
    assert set(received) == {np.dtype(np.float32)}


@shares_ray
@pytest.mark.parametrize(
    ("n_workers", "n_in_flight", "max_staleness", "least"),
    [(3, 2, 2, 1), pytest.param(2, 1, 0, 0, marks=pytest.mark.slow)],
)
def test_staleness_is_bounded(n_workers: int, n_in_flight: int, max_staleness: int, least: int) -> None:
    seen: set[int] = set()

    def look(watching: Watching) -> None:
        seen.update(watching.locals["staleness"])

    options = dict(n_in_flight=n_in_flight, max_staleness=max_staleness)
    make_model(n_workers=n_workers, backend_kwargs=options).learn(1_000, Watching(look))
    assert least <= max(seen) <= max_staleness


@shares_ray
def test_what_can_not_leave_this_machine_is_told() -> None:
    env = SubprocVecEnv([Counting] * 2)
    with pytest.raises(TypeError, match=r"environment 0 can't leave this machine with backend='ray'.*Connection"):
        make_model(env).learn(10)
    env.close()
    env = make_env(2)
    env.envs[1].lock = threading.Lock()
    with pytest.raises(TypeError, match=r"environment 1, or something else that worker 1 needs, can't be pickled"):
        make_model(env).learn(10)


def test_hogwild_is_told() -> None:
    """The warning is an error here, so that no worker starts."""
    with pytest.raises(UserWarning, match="use_locking=False has no effect with backend='ray'"):
        make_model(use_locking=False).learn(20)


@pytest.mark.slow
@shares_ray
@pytest.mark.filterwarnings("ignore:use_locking=False has no effect")
def test_hogwild_is_ignored() -> None:
    assert make_model(use_locking=False).learn(20).num_timesteps == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_cpus=-1), r"backend_kwargs['num_cpus'] must be a number of at least 0, but it is -1"),
        (dict(resources={"GPU": "x"}), r"backend_kwargs['resources'] must be None or a dict"),
        (dict(max_restarts=None), r"backend_kwargs['max_restarts'] must be a whole number of at least 0"),
        (dict(max_staleness=-1), r"backend_kwargs['max_staleness'] must be None or a whole number of at least 0"),
        (dict(n_in_flight=0), r"backend_kwargs['n_in_flight'] must be a whole number of at least 1"),
        (dict(gradient_dtype="float16"), r"backend_kwargs['gradient_dtype'] must be None or 'bfloat16', but it is 'float16'"),
        (dict(addres="x"), r"backend_kwargs must be None, or a dict with some of ['address', 'gradient_dtype'"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_model(backend_kwargs=options)


@shares_ray
def test_an_address_that_can_not_be_reached() -> None:
    from sb3_a3c.backends.ray.connection import check_reachable  # it imports Ray

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"  # nobody listens
        with pytest.raises(ConnectionError, match=rf"must be the address of a cluster, but '{address}' can't be reached"):
            check_reachable(address)
    for other in (None, "auto", "local", "ray://host:10001"):
        check_reachable(other)


def test_another_address_than_that_of_ray_as_it_is_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backend_kwargs\['address'\] must be None or '.*', because Ray is initialised"):
        make_model(backend_kwargs=dict(address="10.0.0.1:6379")).learn(20)


def test_ray_accepts_the_cluster_of_the_documentation() -> None:
    """What ``ray up`` checks before it starts machines."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    page = (Path(__file__).parents[1] / "docs" / "cluster.rst").read_text()
    block = re.search(r"code-block:: yaml\n\n((?:    .*\n)+)", page)
    assert block is not None
    config = yaml.safe_load(textwrap.dedent(block[1]))
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="Additional properties are not allowed"):
        validate_config(prepare_config(config | {"another": 1}))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"backend='ray' needs the extra 'ray' \(missing: ray\)"):
        make_model()


def run_script(tmp_path: Path, text: str, **kwargs: Any) -> subprocess.Popen:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(text))
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(script)], stdin=pipe, stdout=pipe, stderr=pipe, text=True, **kwargs
    )


def test_a_local_ray_is_started_and_ends_with_the_run_or_with_the_program(tmp_path: Path) -> None:
    """As typed, without a guard, without a word. Then again, and the program is killed."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    script = """
        import sys, tempfile, os
        tempfile.tempdir = None if len({folder!r}) > 25 else {folder!r}
        from sb3_a3c import A3C
        assert "ray" not in sys.modules
        def tell(locals_, _):
            print("learning", flush=True)
            return True
        model = A3C("MlpPolicy", "CartPole-v1", n_workers=2, backend="ray")
        print(model.learn(100, log_interval=None).num_timesteps)
        import ray, psutil
        print(ray.is_initialized(), psutil.Process().children(recursive=True), flush=True)
        model.learn(10**9, callback=tell, log_interval=None)
    """.replace("{folder!r}", repr(str(folder)))
    program = run_script(tmp_path, script, env=os.environ | {"RAY_TMPDIR": str(tmp_path)})  # where no address of a cluster is
    assert program.stdout is not None and program.stderr is not None
    said = [program.stdout.readline() for _ in range(3)]
    assert said == ["100\n", "False []\n", "learning\n"], program.stderr.read()
    children = psutil.Process(program.pid).children(recursive=True)
    assert len(actors(program.pid)) == 2
    # Ray's own agents try to tell the rest of Ray, which is gone, for up to a minute.
    children = [process for process in children if "Agent" not in command_line(process)]
    program.kill()
    assert not program.communicate()[1]
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, [command_line(process) for process in alive]


@pytest.mark.slow
@shares_ray
def test_an_exception_at_some_lines_leaves_nothing_behind() -> None:
    """See ``test_interrupts.py``. Here each line takes seconds."""
    model = make_model(make_env(2), max_lead=0)

    def learn() -> None:
        model.learn(20, Watching(lambda watching: watching.model.env.get_attr("seconds")), reset_num_timesteps=False)

    learn()
    with Tracer() as tracer:
        learn()
    lines = sorted(line for line in tracer.counts if line[0].startswith("backends") and "process" not in line[0])
    assert len(lines) > 100
    for line in lines[:: len(lines) // 12]:
        with suppress(Interrupt), Tracer(line):  # it may not be reached again
            learn()
        assert not actors() and not vars(model.env).keys() & {"get_attr", "reset"}, line
        assert all(th.isfinite(param).all() for param in model.policy.parameters())
        num_timesteps = model.num_timesteps
        learn()
        assert model.num_timesteps == num_timesteps + 20, line
