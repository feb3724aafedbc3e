"""
Where the machine code of the kernels is kept, so that it is compiled once per installation.

Importing the package touches no cache: a package that is installed where nobody may write, without a home folder, can be
imported. A run whose kernels find no folder to be kept in uses a temporary one.
"""

import atexit
import hashlib
import os
import platform
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba

import sb3_a3c.kernels.kernels as kernels
import sb3_a3c.kernels.normalization as normalization_kernels

#: Its attributes are set while numba is imported.
_config: Any = numba.config
_VARIABLE = "NUMBA_CACHE_DIR"


def _public(module: Any) -> dict[str, Any]:
    """The compiled functions that Python calls; with NUMBA_DISABLE_JIT there are none."""
    found = {name: function for name, function in vars(module).items() if hasattr(function, "enable_caching")}
    return {name: function for name, function in found.items() if not function.targetoptions.get("no_cpython_wrapper")}


#: The kernels by name.
KERNELS: dict[str, Any] = {**_public(kernels), **_public(normalization_kernels)}


def use_cache(folder: str | None = None) -> bool:
    """
    Load compiled kernels from disk, and keep new ones there.

    :param folder: The folder that another process keeps them in, None: numba chooses one
    :return: Whether there is a folder that can be written to
    """
    if folder is not None:
        _config.CACHE_DIR = folder
    try:
        for kernel in KERNELS.values():
            if folder is not None or kernel.stats.cache_path is None:
                kernel.enable_caching()
    except RuntimeError:  # numba's "no locator available"
        return False
    return True


def use_temporary_cache() -> bool:
    """
    Keep compiled kernels in a folder that is removed when this process ends, and warn about it.

    :return: Whether there is such a folder; if not, the kernels stay in memory
    """
    warnings.warn(
        "There is no folder to keep compiled kernels in, so each program that uses them compiles them anew, which takes some "
        f"seconds. Set the environment variable {_VARIABLE} to a folder that can be written to.",
        stacklevel=5,
    )
    try:
        folder = tempfile.mkdtemp(prefix="sb3_a3c-")
    except OSError:
        return False
    atexit.register(_remove, folder, os.getpid())
    os.environ[_VARIABLE] = folder  # for processes that are started from here
    return use_cache(folder)


def cache_folder() -> str | None:
    """
    :return: The folder that this process was told to keep kernels in, None: numba chooses one
    """
    return _config.CACHE_DIR or None


def marker(name: str, kernel: str) -> Path | None:
    """
    numba does not tell what its cache holds before it has compiled what it does not hold, so each example that was compiled
    leaves an empty file there.

    :param name: An example of the calls of a kernel
    :param kernel: The kernel
    :return: That example's file, for this source code, numba and processor. None: nothing compiles or keeps the kernel
    """
    folder = KERNELS[kernel].stats.cache_path if kernel in KERNELS else None
    return (
        None if folder is None else Path(folder) / f"sb3_a3c.{name.replace(', ', '_').replace(' ', '_')}-{_build()}.compiled"
    )


@cache
def _build() -> str:
    sources = b"".join(Path(module.__file__).read_bytes() for module in (kernels, normalization_kernels) if module.__file__)
    numbers = numba.__version__, llvmlite.binding.get_host_cpu_name(), platform.python_version()
    return hashlib.sha256(sources + str(numbers).encode()).hexdigest()[:16]


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a process that was forked from this one
        shutil.rmtree(folder, ignore_errors=True)
