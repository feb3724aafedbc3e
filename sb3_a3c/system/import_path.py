"""How another Python process finds the modules that this one finds."""

import os
import sys


def same_path() -> dict[str, str]:
    """
    :return: Environment variables with which a new Python has this one's ``sys.path``, and not the current folder besides
    """
    folders = [folder or os.getcwd() for folder in sys.path if isinstance(folder, str)]
    return {"PYTHONPATH": os.pathsep.join(folders), "PYTHONSAFEPATH": "1"}
