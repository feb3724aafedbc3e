"""Imported by the fork server, so that the processes forked from it have what they need, and share its memory."""

import stable_baselines3  # noqa: F401

import sb3_a3c.backends.process.worker_main  # noqa: F401
from sb3_a3c.backends.process.installation import set_back
from sb3_a3c.kernels.compilation import load_kernels

set_back()
load_kernels()
