"""Reports workers that do not make progress: there may be no room for their actor, or a step may never end."""

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from sb3_a3c.backends.ray.slot import Slot

#: Seconds of silence until the user is warned of a worker, and between two checks. Chosen arbitrarily: longer than nearly all
#: rollouts and starts.
_REPORT_AFTER, _CHECK_EVERY = 60.0, 5.0


class Cluster(Protocol):
    """Describes the capacity of the cluster."""

    def demand(self) -> str:
        """
        :return: What each actor takes of its node
        """

    def capacity(self) -> str:
        """
        :return: What is free, and how much there is
        """


class Silence:
    """
    :param slots: One per worker
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._checked_at = time.monotonic()

    def check(self, cluster: Cluster) -> Iterator[tuple[Slot, str]]:
        """
        :param cluster: Where the actors are
        :return: Each worker that has been silent for too long, once, and a message for the user
        """
        now = time.monotonic()
        if now - self._checked_at < _CHECK_EVERY:
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
