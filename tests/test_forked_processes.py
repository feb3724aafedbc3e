"""A3C learns in a process that was forked after a run (``concurrent.futures`` does that), on every engine and backend."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_a3c import A3C


def learn(**kwargs: Any) -> int:
    return A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2), **kwargs).learn(40).num_timesteps


@pytest.fixture(scope="module")
def forked() -> Any:
    """One process that was forked after runs, and after torch has computed with all of its threads."""
    n_threads = th.get_num_threads()
    th.set_num_threads(2)
    th.linalg.qr(th.rand(64, 64))
    assert learn(backend="thread") == learn(backend="process") == 40
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        yield executor
        for process in executor._processes.values():
            process.terminate()  # if one hangs, the test that says so has failed by then
    th.set_num_threads(n_threads)


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(backend="serial", engine="fused"),
        dict(backend="serial", engine="torch"),
        dict(backend="thread", engine="fused"),
        dict(backend="thread", engine="torch"),
        dict(n_workers=1, engine="torch"),
        dict(backend="process"),
        dict(backend="process", backend_kwargs=dict(start_method="fork"), engine="fused"),
    ],
    ids=str,
)
def test_a_run_in_a_forked_process(forked: ProcessPoolExecutor, kwargs: dict[str, Any]) -> None:
    assert forked.submit(learn, **kwargs).result(timeout=120) == 40
