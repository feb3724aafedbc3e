"""Where workers live: which backends there are."""

from collections.abc import Sequence
from typing import Any

from sb3_a3c.backends.max_lead import MaxLead
from sb3_a3c.backends.process.backend import ProcessBackend, prepare
from sb3_a3c.backends.protocol import Backend, SeenWorker
from sb3_a3c.backends.quota import RolloutOrder
from sb3_a3c.backends.serial import SerialBackend
from sb3_a3c.backends.threads import ThreadBackend
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.worker.spec import WorkerSpec

#: The backends by the names that users type.
BACKENDS: dict[str, type[SerialBackend | ThreadBackend | ProcessBackend]] = {
    "serial": SerialBackend,
    "thread": ThreadBackend,
    "process": ProcessBackend,
}


def prepare_backend(name: str, options: dict[str, Any] | None) -> None:
    """
    Begin what a first run would wait for, beside whatever else is done before it.

    :param name: A key of ``BACKENDS``. Another name is ignored: it is reported where arguments are checked
    :param options: The backend's own (``backend_kwargs``)
    """
    if name == "process":
        prepare(options.get("start_method", "forkserver") if isinstance(options, dict) else "forkserver")


def make_backend(
    name: str,
    specs: Sequence[WorkerSpec],
    parameters: SharedParameters,
    n_rollouts: int,
    rollout_order: RolloutOrder,
    max_lead: MaxLead,
    **options: Any,
) -> Backend:
    """
    :param name: A key of ``BACKENDS``
    :param specs: What the workers are made of, in the order of their environments
    :param parameters: The shared parameters
    :param n_rollouts: How many rollouts of all environments the run has; the caller asks for no more
    :param rollout_order: "env": a rollout of each worker, "arrival": the first to arrive
    :param max_lead: How far a worker may be ahead of what the caller has done with
    :param options: The backend's own (``backend_kwargs``)
    :return: The backend. One worker gets no thread or process: callbacks are to see its policy as it was at each
        rollout, so it would wait for them, and they for it
    """
    if len(specs) == 1:
        return SerialBackend(specs, parameters, n_rollouts, rollout_order, max_lead)
    return BACKENDS[name](specs, parameters, n_rollouts, rollout_order, max_lead, **options)


__all__ = ["BACKENDS", "Backend", "MaxLead", "RolloutOrder", "SeenWorker", "make_backend", "prepare_backend"]
