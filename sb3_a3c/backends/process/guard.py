"""The guard that a script needs if worker processes import it."""

import multiprocessing
import os
import sys

#: What to do if each new process would run the whole script.
GUARD = """\
The script that is run needs a guard, because each new process imports it, and would run all that is in it:

    if __name__ == "__main__":
        model = A3C(..., backend="process")
        model.learn()
"""


def likely_reason() -> str:
    """
    :return: Why a new process may have ended before it could do anything, and what to do
    """
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if path is not None and not os.path.exists(path):
        return (
            f"The program is not in a file that new processes can import: it is {path!r}. Save it as a file with a guard (if "
            '__name__ == "__main__":), run it with python -c, or use backend_kwargs=dict(start_method="fork")\n'
        )
    return GUARD


def is_importing_the_script() -> bool:
    """
    :return: Whether this process was just started, and is importing the script that started it. Checked against Python 3.11
    """
    return getattr(multiprocessing.current_process(), "_inheriting", False)
