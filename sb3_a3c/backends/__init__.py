"""Where workers run: in turn, in threads, in processes, or in a backend that a user has registered."""

from sb3_a3c.backends.max_lead import MaxLead
from sb3_a3c.backends.protocol import Backend, Option, RunSpec, SeenWorker
from sb3_a3c.backends.quota import RolloutOrder
from sb3_a3c.backends.registry import BACKENDS, make_backend, prepare_backend, register_backend
from sb3_a3c.worker.worker import make_workers

__all__ = [
    "BACKENDS",
    "Backend",
    "MaxLead",
    "Option",
    "RolloutOrder",
    "RunSpec",
    "SeenWorker",
    "make_backend",
    "make_workers",
    "prepare_backend",
    "register_backend",
]
