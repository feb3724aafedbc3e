"""
Turns: threads compute with torch one after another.

torch releases the GIL in each operation. Threads that compute on small tensors at the same time therefore pass it back and
forth every few microseconds, and all together make half the progress of a single thread. So one thread computes while the
others step their environments. Operations on large tensors take long enough, so there is one turn per core for them.
"""

import sys
import threading
from contextlib import AbstractContextManager, nullcontext

from sb3_a3c.system.cores import usable_cores

#: A policy with at least this many parameters is large. On two cores, with 8 workers and MLPs of 2 x 256, 2 x 512 and
#: 2 x 1024 units, a single turn makes 1.1, 0.9 and 0.8 times the steps/s of two turns.
LARGE = 400_000


def make_turn(n_parameters: int) -> AbstractContextManager:
    """
    :param n_parameters: Number of parameters of the policy
    :return: A context manager that all engines of a run share and hold while they compute
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return nullcontext()
    # A semaphore is written in Python, so a lock costs less time at each step.
    return threading.Lock() if n_parameters < LARGE else threading.Semaphore(usable_cores())
