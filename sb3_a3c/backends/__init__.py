"""Where workers live: which backends there are."""

from collections.abc import Callable, Sequence
from typing import Any

from sb3_a3c.backends.protocol import Backend
from sb3_a3c.backends.quota import RolloutOrder
from sb3_a3c.backends.serial import SerialBackend
from sb3_a3c.backends.threads import ThreadBackend
from sb3_a3c.worker import Worker

#: The backends by the names that users type.
BACKENDS: dict[str, Callable[..., Backend]] = {"serial": SerialBackend, "thread": ThreadBackend}


def make_backend(
    name: str, workers: Sequence[Worker], n_rollouts: int, rollout_order: RolloutOrder, max_lead: int, **options: Any
) -> Backend:
    """
    :param name: A key of ``BACKENDS``
    :param workers: The workers, in the order of their environments
    :param n_rollouts: How many rollouts of all environments the run has; the caller asks for no more
    :param rollout_order: "env": a rollout of each worker, "arrival": the first to arrive
    :param max_lead: Rollouts that a worker may be ahead of what the caller has done with
    :param options: The backend's own (``backend_kwargs``)
    :return: The backend. One worker gets no thread: callbacks are to see its policy as it was at each rollout, so it would
        wait for them, and they for it
    """
    make = SerialBackend if name == "thread" and len(workers) == 1 else BACKENDS[name]
    return make(workers, n_rollouts, rollout_order, max_lead, **options)


__all__ = ["BACKENDS", "Backend", "RolloutOrder", "make_backend"]
