"""
Keeps the machine code of the kernels on disk, so that it is compiled once per installation.

numba stores a kernel beside the time stamp of its file. It does not notice that an inner function in another file has
changed. So each build of the kernels has a separate folder, whose name is a hash of all their sources, numba's version,
the processor and Python's version. Code that other sources made is never loaded, whatever other processes write meanwhile.

Importing the package touches no cache: it can be imported where no folder can be written to. A run that finds no folder
uses a temporary one.
"""

import atexit
import hashlib
import os
import platform
import shutil
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba

from sb3_a3c.kernels import acting, gradient, normalization, optimizers, recurrent, returns, state_dependent_noise

#: Its attributes are set while numba is imported.
_config: Any = numba.config
_VARIABLE = "NUMBA_CACHE_DIR"
_PREFIX = "sb3_a3c-"
#: How many builds to keep. Several copies of the package, or versions of Python, may take turns in one folder.
_N_BUILDS = 8


def _build() -> str:
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    versions = numba.__version__, llvmlite.binding.get_host_cpu_name(), platform.python_version()
    return hashlib.sha256(sources + str(versions).encode()).hexdigest()[:16]


#: The kernels (compiled functions that Python calls) by name. With NUMBA_DISABLE_JIT there are none.
KERNELS: dict[str, Any] = {
    name: function
    for module in (acting, gradient, normalization, optimizers, recurrent, returns, state_dependent_noise)
    for name, function in vars(module).items()
    if hasattr(function, "enable_caching") and not function.targetoptions.get("no_cpython_wrapper")
}
#: Computed at once, since the sources may be replaced while this process runs.
_BUILD = _build()


def use_cache(folder: str | None = None) -> bool:
    """
    Load compiled kernels from disk, and store new ones there.

    :param folder: The folder that another process uses, None: numba chooses one
    :return: Whether there is a folder that can be written to
    """
    if folder is not None:
        _config.CACHE_DIR = folder
    kernels = [kernel for kernel in KERNELS.values() if folder is not None or kernel.stats.cache_path is None]
    if not kernels:
        return True
    chosen = _config.CACHE_DIR
    try:
        kernels[0].enable_caching()
        _config.CACHE_DIR = _folder_of_this_build(Path(kernels[0].stats.cache_path))
        for kernel in kernels:
            kernel.enable_caching()
    except (OSError, RuntimeError):  # numba's "no locator available"
        return False
    finally:
        _config.CACHE_DIR = chosen
    return True


def use_temporary_cache() -> bool:
    """
    Store compiled kernels in a folder that is removed when this process ends, and warn about it.

    :return: Whether there is such a folder. If not, the kernels stay in memory
    """
    warnings.warn(
        "No folder for compiled kernels can be written to, so each program that uses them compiles them again, which takes "
        f"some seconds. Set the environment variable {_VARIABLE} to a folder that can be written to.",
        stacklevel=5,
    )
    try:
        folder = tempfile.mkdtemp(prefix=_PREFIX)
    except OSError:
        return False
    atexit.register(_remove, folder, os.getpid())
    os.environ[_VARIABLE] = folder  # for processes that are started from here
    return use_cache(folder)


def cache_folder() -> str | None:
    """
    :return: The folder that this process was told to use, None: numba chooses one
    """
    return _config.CACHE_DIR or None


def _folder_of_this_build(parent: Path) -> str:
    """Make it, and remove the folders of old builds."""
    folder = parent / f"{_PREFIX}{_BUILD}"
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for old in _by_age(parent)[_N_BUILDS:]:
            shutil.rmtree(old, ignore_errors=True)
    return str(folder)


def _by_age(parent: Path) -> list[Path]:
    """The folders of all builds, the newest first."""
    times = {}
    for path in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another process has removed it
            times[path] = path.stat().st_mtime
    return sorted(times, key=times.__getitem__, reverse=True)


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a process that was forked from this one
        shutil.rmtree(folder, ignore_errors=True)
