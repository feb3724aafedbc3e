"""Where workers live: which backends there are."""

from collections.abc import Callable

from sb3_a3c.backends.protocol import Backend
from sb3_a3c.backends.quota import RolloutOrder
from sb3_a3c.backends.serial import SerialBackend
from sb3_a3c.backends.threads import ThreadBackend

#: The backends by the names that users type. Each is called with the workers, how many rollouts of all environments the
#: run has, the order they are handed over in, and how many a worker may be ahead; and with ``backend_kwargs``.
BACKENDS: dict[str, Callable[..., Backend]] = {"serial": SerialBackend, "thread": ThreadBackend}

__all__ = ["BACKENDS", "Backend", "RolloutOrder"]
