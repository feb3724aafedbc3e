"""Files that are written completely or not at all."""

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
    Write a temporary file that replaces the target when it is complete. However the program ends, the target has either the
    old or the new content. After an error, the temporary file is removed. Links stay links, and permissions are kept.

    :param path: The file to write, in a folder that exists
    :return: A context manager that returns the temporary file, opened for writing
    :raises OSError: if the folder can't be written to
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a device or a pipe can't be replaced
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


def sb3_path(path: str | Path) -> Path:
    """
    Resolve a path as SB3's ``save()`` does: ``.zip`` is added to a path without a suffix, a folder is not overwritten, and a
    missing parent folder is created.

    :param path: The path that the user gave
    :return: The file to write
    :raises OSError: if the parent folder can't be created
    """
    path = Path(path)
    if path.suffix == "":
        path = Path(f"{path}.zip")
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
    except OSError as error:  # errno decides the class of the new error
        reason = f"path must be in a folder that can be written to, but it is not: {error.strerror}"
        raise OSError(error.errno, reason, str(path)) from error
