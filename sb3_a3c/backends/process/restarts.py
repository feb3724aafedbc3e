"""How often workers that have died are replaced in a run, and how soon."""

import time

#: Seconds before a worker is replaced whose last processes, one after another, have not finished a rollout: at first at
#: once, then this, then twice as long each time. Out of the air: what is wrong (memory is short, say) may pass.
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0


class Restarts:
    """
    The restarts of one run.

    :param max_restarts: How many there may be, of all workers together
    """

    def __init__(self, max_restarts: int) -> None:
        self.max_restarts = max_restarts
        self.n_restarts = 0
        self._history: list[str] = []
        self._barren: dict[int, int] = {}
        self._began_at = time.monotonic()

    def bore_fruit(self, worker: int) -> None:
        """
        :param worker: Index of a worker that has finished a rollout
        """
        self._barren[worker] = 0

    def admit(self, worker: int, cause: str) -> float | None:
        """
        Count a restart, if there may be another.

        :param worker: Index of a worker that has died
        :param cause: Of what
        :return: Seconds to wait before it is replaced; None: it is not to be
        """
        self._history.append(f"{time.monotonic() - self._began_at:.1f} s: {cause}")
        if self.n_restarts >= self.max_restarts:
            return None
        self.n_restarts += 1
        barren = self._barren[worker] = self._barren.get(worker, 0) + 1
        return 0.0 if barren == 1 else min(_FIRST_DELAY * 2.0 ** (barren - 2), _LONGEST_DELAY)

    def history(self) -> str:
        """
        :return: What has happened, for the user; nothing if nothing was to be replaced
        """
        if self.max_restarts == 0:
            return ""
        deaths = "\n".join(self._history)
        return f"\nThere have been max_restarts={self.max_restarts} restarts in this run, so there is no other:\n{deaths}"
