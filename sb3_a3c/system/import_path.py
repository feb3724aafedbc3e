"""The import path of this process, for other Python processes."""

import os
import sys
from contextlib import suppress


def same_path() -> dict[str, str]:
    """
    :return: Environment variables that give a new Python process this one's ``sys.path``, without the current folder
    """
    return {"PYTHONPATH": os.pathsep.join(import_path()), "PYTHONSAFEPATH": "1"}


def import_path() -> list[str]:
    """
    :return: The folders of ``sys.path``. The current folder, if it is one of them, by its path, and not if it was removed
    """
    folders = [folder for folder in sys.path if isinstance(folder, str)]
    with suppress(FileNotFoundError):
        return [folder or os.getcwd() for folder in folders]
    return [folder for folder in folders if folder]
