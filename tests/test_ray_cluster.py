"""Workers on several nodes of a Ray cluster, all on this machine: learning, nodes that go and come, and a hundred kills."""

import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_ray import Counting, Watching, actors, command_line, make_env, make_model

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

#: A program that learns on a cluster. It says on which nodes it does, and waits for a line where it says so.
SCRIPT = """
    import sys, time
    import gymnasium as gym
    import ray
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv
    from sb3_a3c import A3C

    class Env(gym.Wrapper):
        def __init__(self):
            super().__init__(gym.make("CartPole-v1"))

        def step(self, action):
            time.sleep(0.002)
            obs, reward, terminated, truncated, info = super().step(action)
            return obs, reward, terminated, truncated, {**info, "node": ray.get_runtime_context().get_node_id()}

    class Watching(BaseCallback):
        n_seen = 0

        def say(self, what):
            print(what, len({info["node"] for info in self.locals["infos"]}), flush=True)

        def _on_step(self):
            self.n_seen += len(self.locals["infos"])
            if self.n_calls in (100, 600):
                self.say("nodes:")
                sys.stdin.readline()
            return True

    if __name__ == "__main__":
        model = A3C("MlpPolicy", DummyVecEnv([Env] * 4), n_workers=4, backend="ray", max_lead=2,
                    backend_kwargs=dict(address=sys.argv[1], num_cpus=0.5, max_restarts=20))
        watching = Watching()
        model.learn(4_000, watching)
        watching.say("nodes in the end:")
        print(model.num_timesteps, watching.n_seen, model._n_updates)
"""


#: A program that learns Pendulum with the settings of ``examples/pendulum.py``, and says so when it is half-way.
PENDULUM = """
    import sys
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize
    from torch import nn
    from sb3_a3c import A3C, register_callback

    class HalfWay(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 100_000:
                print("half-way", flush=True)
            return True

    register_callback(HalfWay, lambda callback, n_steps: False)
    address, seed = sys.argv[1], int(sys.argv[2])
    env = VecNormalize(make_vec_env("Pendulum-v1", 8, seed=seed), gamma=0.9)
    options = dict(learning_rate=lambda remaining: 1e-3 * remaining, n_steps=4, gamma=0.9, gae_lambda=0.95, vf_coef=0.4)
    policy = dict(log_std_init=-1, ortho_init=False, activation_fn=nn.ReLU)
    model = A3C("MlpPolicy", env, n_workers=4, backend="ray", backend_kwargs=dict(address=address, num_cpus=0.5), seed=seed,
                use_sde=True, policy_kwargs=policy, **options)
    model.learn(200_000, HalfWay())
    env.training = env.norm_reward = False
    mean_return, _ = evaluate_policy(model, env, n_eval_episodes=50)
    print("result", model.num_timesteps, model._n_updates, env.obs_rms.count, mean_return)
"""


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head with two cores, and a node with two."""
    from ray.cluster_utils import Cluster

    before = set(psutil.Process().children(recursive=True))
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=2, include_dashboard=False))
    cluster.add_node(num_cpus=2)
    yield cluster
    cluster.shutdown()
    started = set(psutil.Process().children(recursive=True)) - before
    _, alive = psutil.wait_procs([process for process in started if process.is_running()], timeout=60)
    assert not alive, [command_line(process) for process in alive]


@pytest.fixture
def start(cluster: Any, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen]]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    programs = []

    def start() -> subprocess.Popen:
        pipe = subprocess.PIPE
        command = [sys.executable, str(script), cluster.address]
        programs.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()
        program.communicate()


def read(program: subprocess.Popen) -> str:
    """The next line that a program prints itself (Ray prints, too); what it has raised, if it has ended."""
    assert program.stdout is not None and program.stderr is not None
    lines = (line for line in program.stdout if line.startswith("nodes"))
    return next(lines, "") or program.stderr.read()


def test_a_node_goes_and_another_one_comes(cluster: Any, start: Callable[[], subprocess.Popen]) -> None:
    program = start()
    assert program.stdin is not None
    assert read(program) == "nodes: 2\n"
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    print(file=program.stdin, flush=True)
    assert read(program) == "nodes: 1\n"
    cluster.add_node(num_cpus=2)
    print(file=program.stdin, flush=True)
    out, err = program.communicate(timeout=200)
    assert "4000 4000 800" in out.splitlines(), out + err
    assert "has died" in err and "It is replaced now" in err
    assert not actors()


def test_a_program_that_is_killed_leaves_no_actor_in_the_cluster(cluster: Any, start: Callable[[], subprocess.Popen]) -> None:
    program = start()
    assert read(program) == "nodes: 2\n" and len(actors()) == 4
    program.kill()
    deadline = time.monotonic() + 60
    while actors() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not actors()


@pytest.mark.usefixtures("local_ray")
@pytest.mark.filterwarnings("ignore:the actor of worker .* has died")
@pytest.mark.filterwarnings("ignore:environment")
@pytest.mark.parametrize("n_kills", [12, pytest.param(100, marks=pytest.mark.exhaustive)])
def test_many_kills(n_kills: int) -> None:
    """At random points of the actors' lives: in steps, and just after their start."""
    rng = random.Random(0)
    killed: set[int] = set()

    def kill(watching: Watching) -> Any:
        alive = sorted(set(watching.pids.values()) - killed)
        if len(killed) < n_kills and alive:
            time.sleep(rng.uniform(0, 0.003))
            killed.add(pid := rng.choice(alive))
            os.kill(pid, signal.SIGKILL)
            watching.last = watching.n_calls  # type: ignore[attr-defined]
        return len(killed) < n_kills or watching.n_calls < watching.last + 200  # type: ignore[attr-defined]

    options = dict(max_restarts=10 * n_kills, num_cpus=0.5)
    model = make_model(make_env(4, 0.001), 4, rollout_order="arrival", max_lead=0, backend_kwargs=options)
    watching = Watching(kill)
    model.learn(1_000_000, watching)
    assert len(killed) == n_kills and model.num_timesteps == 4 * watching.n_calls
    watching.check()
    assert not actors()
    model.env.env_method("place")
    assert isinstance(model.env.envs[0], Counting)  # type: ignore[attr-defined]
    model.learn(40)
    assert model.num_timesteps == 40


def test_pendulum_is_learned_although_a_node_is_killed(cluster: Any, tmp_path: Path) -> None:
    """On two nodes, of which one is killed half-way. The mean return is about -150."""
    script = tmp_path / "pendulum.py"
    script.write_text(textwrap.dedent(PENDULUM))
    pipe = subprocess.PIPE
    program = subprocess.Popen([sys.executable, str(script), cluster.address, "0"], stdout=pipe, stderr=pipe, text=True)
    try:
        assert program.stdout is not None
        assert "half-way" in (line.strip() for line in program.stdout)
        cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
        out, err = program.communicate(timeout=400)
    finally:
        program.kill()
    replaced = set(re.findall(r"the actor of worker (\d), .* has died", err))
    result = next(line for line in out.splitlines() if line.startswith("result")).split()
    assert replaced and result[1:3] == ["200000", "25000"], out + err
    # The statistics count each step once, and the observations after a reset: of 8 environments, and of replacements' two.
    assert float(result[3]) == 200_008 + 2 * len(replaced) + 1e-4
    assert float(result[4]) > -200
