"""Imported by the fork server, so that the processes forked from it have what they need, and share its memory."""

import os

import numpy as np
import stable_baselines3  # noqa: F401

import sb3_a3c.backends.process.worker_main  # noqa: F401
from sb3_a3c.backends.process.installation import set_back
from sb3_a3c.kernels.compilation import load_kernels

_server = os.getpid()


def _reseed() -> None:
    """NumPy's global generator differs in each process, as in a process that loads NumPy itself."""
    if os.getppid() == _server:
        np.random.seed()


set_back()
load_kernels()
os.register_at_fork(after_in_child=_reseed)
