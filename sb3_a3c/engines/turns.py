"""
Whose turn it is to compute with torch.

torch releases the GIL in each of its operations. Threads that compute on small tensors at the same time therefore hand it
to and fro every few microseconds, and all together get half as far as one alone; so one computes, while the others
step their environments. Operations on large tensors are worth handing it over: there is a turn a core.
"""

import sys
import threading
from contextlib import AbstractContextManager, nullcontext

from sb3_a3c.system.cores import usable_cores

#: Parameters from which on operations count as long. On two cores, with 8 workers of MLPs of 2 x 256, 2 x 512 and 2 x 1024
#: units, a single turn makes 1.1, 0.9 and 0.8 times the steps/s that two turns make.
LARGE = 400_000


def make_turn(n_parameters: int) -> AbstractContextManager:
    """
    :param n_parameters: How many parameters the policy has
    :return: What an engine holds while it computes; to be shared by all engines of a run
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return nullcontext()
    # A lock rather than a semaphore of one, which is written in Python and would cost interpreter time at each step.
    return threading.Lock() if n_parameters < LARGE else threading.Semaphore(usable_cores())
