"""Reports workers that do not make progress: there may be no room for their actor, or a step may never end."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from sb3_a3c.backends.ray.slot import Slot

#: Seconds of silence until the user is warned of a worker, and between two checks. Chosen arbitrarily: longer than nearly all
#: rollouts and starts.
_REPORT_AFTER, CHECK_EVERY = 60.0, 5.0


class Silence:
    """
    :param slots: One per worker
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._checked_at = time.monotonic()

    def check(self, cluster: Any) -> Iterator[tuple[Slot, str]]:
        """
        :param cluster: The connection to Ray, which knows what actors need and what is free
        :return: Each worker that has been silent for too long, once, and a message for the user
        """
        now = time.monotonic()
        if now - self._checked_at < CHECK_EVERY:
            return
        self._checked_at = now
        for slot in self._slots:
            seconds = now - slot.active_at
            if slot.is_awaited and not slot.reported and seconds >= _REPORT_AFTER:
                slot.reported = True
                if slot.ready:
                    yield slot, f"{slot.name} has not finished a rollout for {seconds:.0f} s"
                else:
                    yield (
                        slot,
                        f"{slot.name} has not started for {seconds:.0f} s. It needs {cluster.demand()} of a node. Free in the "
                        f"cluster: {cluster.capacity()}",
                    )
