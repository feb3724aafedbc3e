"""What the fork server loads, once, so that the workers which are forked from it have it, and share its pages."""

import stable_baselines3  # noqa: F401

import sb3_a3c.backends.process.worker_process  # noqa: F401
from sb3_a3c.backends.process.installation import set_back
from sb3_a3c.kernels.compilation import load_kernels

set_back()
load_kernels()
