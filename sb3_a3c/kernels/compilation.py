"""Compiles the kernels that a run needs before it begins, or loads them from the cache."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_wrapper

from sb3_a3c.kernels import optimizers
from sb3_a3c.kernels.cache import KERNELS, use_cache, use_temporary_cache
from sb3_a3c.kernels.examples import EXAMPLES
from sb3_a3c.system.cores import usable_cores
from sb3_a3c.system.import_path import same_path

#: Steps of optimizers: the kernel, the options that it knows, and whether it takes the count of this step after them.
OPTIMIZERS: dict[type[th.optim.Optimizer], tuple[Callable[..., None], tuple[str, ...], bool]] = {
    th.optim.RMSprop: (optimizers.rmsprop_step, ("alpha", "eps"), False),
    RMSpropTFLike: (optimizers.rmsprop_tf_step, ("alpha", "eps"), False),
    th.optim.Adam: (optimizers.adam_step, ("betas", "eps"), True),
}
#: Seconds to wait for the other process after this one has compiled its part. Chosen arbitrarily: longer than it takes.
_PATIENCE = 120.0
#: The examples that this process has compiled or loaded.
_ready: set[str] = set()


def needed(compiled: bool, several: bool, policy: ActorCriticPolicy, use_locking: bool, venv: VecEnv) -> list[str]:
    """
    :param compiled: Whether the engine calls kernels
    :param several: Whether there may be several workers. Then steps of the optimizer are compiled with every engine, where
        compiled code can be stored
    :param policy: The policy, with its optimizer
    :param use_locking: Whether updates are atomic. If not, the optimizer steps in place
    :param venv: The environments
    :return: The keys of ``EXAMPLES`` that a run calls
    """
    names = []
    if compiled:
        names = ["gradient", "act", "predict_values", "returns", "copy"]
        if policy.use_sde:
            names.append("draw_noise")
        if hasattr(policy, "lstm_actor"):
            names += ["encode", "encoders_gradient"]
    if type(policy.optimizer) in OPTIMIZERS and (compiled or (several and venv.num_envs > 1 and use_cache())):
        names.append(OPTIMIZERS[type(policy.optimizer)][0].__name__ + ("" if use_locking else ", in place"))
    if unwrap_vec_wrapper(venv, VecNormalize) is not None:
        parts = venv.observation_space
        dtypes = {space.dtype for space in (parts.spaces.values() if isinstance(parts, spaces.Dict) else [parts])}
        names.append("normalize rewards")
        names += [f"normalize {dtype.name}" for dtype in (np.dtype(np.float32), np.dtype(np.float64)) if dtype in dtypes]
    return names


def compile_kernels(names: Sequence[str]) -> None:
    """
    Load kernels from the cache, and compile those that are not there, in two processes if there are two cores. Compilation
    takes some seconds, so it is announced by a line of the log, whatever the model's verbosity. It is not a warning, which
    a filter could turn into an error.

    :param names: Keys of ``EXAMPLES``
    """
    names = [name for name in names if name not in _ready]
    if not names:
        return
    is_shared = use_cache() or use_temporary_cache()
    missing = [name for name in names if not _is_compiled(name)]
    if missing:
        seconds = sum(EXAMPLES[name].seconds for name in missing)
        logging.getLogger("sb3_a3c").warning("Compiling kernels, once per kind of model (about %.0f s) ...", max(1.0, seconds))
    ours, theirs = _halves(missing)
    with _compiling_apart(theirs if is_shared and usable_cores() > 1 else []):
        for name in ours:
            EXAMPLES[name].call()
    for name in names:  # loads the other process's kernels from the cache
        EXAMPLES[name].call()
        _ready.add(name)
    for file in filter(None, map(_marker, missing)):
        with suppress(OSError):
            file.touch()


def load_kernels() -> None:
    """Load all kernels that are in the cache."""
    if use_cache():
        for name, example in EXAMPLES.items():
            if _marker(name) is not None and _is_compiled(name):
                example.call()
                _ready.add(name)


def _is_compiled(name: str) -> bool:
    """Whether there is nothing to compile: the kernel is in the cache, or NUMBA_DISABLE_JIT is set."""
    file = _marker(name)
    return not KERNELS or (file is not None and file.exists())


def _marker(name: str) -> Path | None:
    """
    numba can't say what its cache holds without compiling what it does not hold. So each example that was compiled leaves an
    empty file. None: its kernel is not compiled, or not stored.
    """
    kernel = KERNELS.get(EXAMPLES[name].kernel)
    folder = None if kernel is None else kernel.stats.cache_path
    return None if folder is None else Path(folder) / f"{name.replace(', ', '_').replace(' ', '_')}.compiled"


def _halves(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Two parts that take about the same time."""
    halves: tuple[list[str], list[str]] = [], []
    for name in sorted(names, key=lambda name: -EXAMPLES[name].seconds):
        min(halves, key=lambda half: sum(EXAMPLES[name].seconds for name in half)).append(name)
    return halves


@contextmanager
def _compiling_apart(names: Sequence[str]) -> Iterator[None]:
    """Compile in another process meanwhile. If it can't be started, the caller finds nothing in the cache."""
    process = None
    if names and sys.executable and not getattr(sys, "frozen", False):  # a frozen program has no Python executable
        command = [sys.executable, str(Path(__file__).with_name("compile_apart.py")), *names]
        quiet = subprocess.DEVNULL
        with suppress(OSError):
            process = subprocess.Popen(command, env=os.environ | same_path(), stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        yield
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
    finally:
        if process is not None:
            process.kill()
            process.wait()
