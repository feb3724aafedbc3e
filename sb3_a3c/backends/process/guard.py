"""The guard that a script needs whose processes import it."""

import multiprocessing

#: What to do about a script that runs as a whole in each new process.
GUARD = """\
The script that is run needs a guard, for each new process imports it, and would run all that is in it:

    if __name__ == "__main__":
        model = A3C(..., backend="process")
        model.learn()
"""


def is_importing_the_script() -> bool:
    """
    :return: Whether this process has just been started, and imports the script that started it. Checked against Python 3.11
    """
    return getattr(multiprocessing.current_process(), "_inheriting", False)
