"""Files that are there whole or not at all: written beside the old file, which they replace when all is on the disk."""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """
    Whatever ends the program meanwhile, the file is the old one or the new one. After an error, nothing is left of the new
    one. A link stays a link, and a file keeps its permissions.

    :param path: The file to write, in a folder that exists
    :return: A context manager that gives a file to write to
    :raises OSError: if the folder can't be written to
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a device or a pipe, which can't be replaced
        with open(target, "wb") as file:
            yield file
        return
    partial = target.with_name(f"{target.stem[:40]}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with _explained(path):
            file = open(partial, "wb")
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.chmod(partial, target.stat().st_mode)
        os.replace(partial, target)
    finally:
        with suppress(OSError):
            partial.unlink()


def sb3_path(path: str | Path, suffix: str) -> Path:
    """
    :param path: Where a user wants to save something
    :param suffix: The suffix of a path that has none
    :return: Where SB3's own ``save()`` would write it: not over a folder, and in a folder that is made where there is none
    :raises OSError: if the folder can't be made
    """
    path = Path(path)
    if path.suffix == "":
        path = Path(f"{path}.{suffix}")
    if path.is_dir():
        warnings.warn(f"Path '{path}' is a folder. Will save instead to {path}_2", stacklevel=3)
        path = Path(f"{path}_2")
    with _explained(path):
        if not path.parent.exists():
            path.parent.mkdir(exist_ok=True, parents=True)
            warnings.warn(f"Path '{path.parent}' did not exist and was created", stacklevel=4)
    return path


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # the class of the new one goes by its number
        reason = f"path must be in a folder that can be written to, but it is not: {error.strerror}"
        raise OSError(error.errno, reason, str(path)) from error
