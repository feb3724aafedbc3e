"""The guard that a script needs if worker processes import it."""

import multiprocessing

#: What to do if each new process would run the whole script.
GUARD = """\
The script that is run needs a guard, because each new process imports it, and would run all that is in it:

    if __name__ == "__main__":
        model = A3C(..., backend="process")
        model.learn()
"""


def is_importing_the_script() -> bool:
    """
    :return: Whether this process was just started, and is importing the script that started it. Checked against Python 3.11
    """
    return getattr(multiprocessing.current_process(), "_inheriting", False)
