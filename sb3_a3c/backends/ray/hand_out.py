"""Chooses the worker that makes the next rollout, and the parameters that it gets."""

from collections.abc import Sequence
from typing import Any

from sb3_a3c.backends.process.messages import encode
from sb3_a3c.backends.quota import Quota
from sb3_a3c.backends.ray.messages import Step
from sb3_a3c.backends.ray.parts import count_parts, split
from sb3_a3c.backends.ray.shared_vector import SharedVector
from sb3_a3c.backends.ray.slot import Slot


class HandOut:
    """
    :param slots: One per worker
    :param shared: The shared parameters
    :param quota: Who may begin how many rollouts
    :param n_in_flight: How many rollouts a worker is asked for at a time
    :param max_staleness: See :class:`~sb3_a3c.backends.ray.backend.RayBackend`
    """

    def __init__(
        self, slots: Sequence[Slot], shared: SharedVector, quota: Quota, n_in_flight: int, max_staleness: int | None
    ) -> None:
        self._slots = slots
        self._shared = shared
        self._quota = quota
        self._n_in_flight = n_in_flight
        self._max_staleness = max_staleness
        #: Workers that wait because another one's gradient would be too stale.
        self._held_back: list[Slot] = []

    def next(self, slot: Slot) -> tuple[int, list[Any]] | None:
        """
        :param slot: A worker
        :return: The rollout to ask it for now: its number, see :meth:`Slot.ask`; a :class:`Step` and the shared parameters in
            parts, see :func:`~sb3_a3c.backends.ray.parts.split`. The next call overwrites a vector among them. None: nothing
        """
        if not slot.may_begin or len(slot.versions) >= self._n_in_flight:
            return None
        if self._would_be_too_stale():
            if slot not in self._held_back:
                self._held_back.append(slot)
            return None
        if not self._quota.take(slot.index):
            return None
        pull, vector = self._shared.pull()
        hyperparameters = slot.worker.hyperparameters  # the main thread may replace them
        news = None if hyperparameters == slot.hyperparameters else hyperparameters
        slot.hyperparameters = hyperparameters
        return slot.ask(pull.n_updates), split(encode(Step(pull, news)), vector, count_parts(vector))

    def take_held_back(self) -> list[Slot]:
        """
        :return: Workers that have waited, the longest first. Those that still must will wait again
        """
        held_back, self._held_back = self._held_back, []
        return held_back

    def _would_be_too_stale(self) -> bool:
        """Whether the oldest gradient could be too stale if all others, and one more, came before it."""
        if self._max_staleness is None:
            return False
        versions = [version for slot in self._slots for version in slot.versions.values()]
        return bool(versions) and self._shared.n_updates + len(versions) - min(versions) > self._max_staleness
