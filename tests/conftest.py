"""Set-up of all tests, and a check after each of them: no thread and no process of a run outlives it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

# torch's OpenMP threads spin while they wait for each other. On a busy machine that makes a test fifty times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

# Ray gives its actors a lower priority than other processes have, so that tests beside them would starve them.
os.environ.setdefault("RAY_worker_niceness", "0")

# A shell that starts the tests in the background lets them ignore Ctrl-C, which some of them send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Each process would import torch by itself; so the server that they are forked from has it.
multiprocessing.set_forkserver_preload(["sb3_a3c.backends.process.preloaded"])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that are exhaustive, unless ``-m`` asks for them."""
    if "exhaustive" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("exhaustive")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile all kernels, so that no test waits for it. With xdist, this is called before its processes start."""
    from sb3_a3c.kernels.compilation import compile_kernels  # here, because torch reads the variables when it is imported
    from sb3_a3c.kernels.examples import EXAMPLES

    compile_kernels(list(EXAMPLES))


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    yield
    left = [thread for thread in threading.enumerate() if thread.name.startswith("A3C worker")]
    assert not left, f"threads are left: {left}"
    alive = [process for process in multiprocessing.active_children() if process.name.startswith("A3C worker")]
    assert not alive, f"processes are left: {alive}"


@pytest.fixture
def no_new_process() -> Iterator[None]:
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) <= before


@pytest.fixture(scope="session")
def local_ray() -> Iterator[Any]:
    """Ray on this machine, which all tests of a process share: it takes seconds to start."""
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(autouse=True)
def ray_is_there(request: pytest.FixtureRequest) -> None:
    """Start Ray for the first test that has "ray" among its parameters."""
    params = getattr(getattr(request.node, "callspec", None), "params", {}).values()
    names = [param.get("backend") if isinstance(param, dict) else param for param in params]
    if any(name == "ray" for name in names if isinstance(name, str)):
        request.getfixturevalue("local_ray")
