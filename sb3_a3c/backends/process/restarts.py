"""Which workers have died in a run, how often they are replaced, and when."""

import time

#: A worker that dies is replaced at once. If its next process dies before it has finished a rollout, the worker is replaced
#: after the first delay, then after twice as long each time, in seconds. Chosen arbitrarily: the cause (short memory, say) may
#: go away.
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0


class Restarts:
    """
    The restarts of one run.

    :param max_restarts: How many are allowed, of all workers together
    """

    def __init__(self, max_restarts: int) -> None:
        self.max_restarts = max_restarts
        self.n_restarts = 0
        #: When workers that have died are to be replaced.
        self.due: dict[int, float] = {}
        self._history: list[str] = []
        self._consecutive_failures: dict[int, int] = {}
        self._started_at = time.monotonic()

    def reset_delay(self, worker: int) -> None:
        """
        :param worker: Index of a worker that has finished a rollout
        """
        self._consecutive_failures[worker] = 0

    def schedule(self, worker: int, cause: str) -> str | None:
        """
        Count a restart, if another is allowed.

        :param worker: Index of a worker that has died
        :param cause: Why it has died
        :return: What happened and when the worker is replaced, for the user. None: it is not replaced
        """
        self._history.append(f"{time.monotonic() - self._started_at:.1f} s: {cause}")
        if self.n_restarts >= self.max_restarts:
            return None
        self.n_restarts += 1
        failures = self._consecutive_failures[worker] = self._consecutive_failures.get(worker, 0) + 1
        delay = 0.0 if failures == 1 else min(_FIRST_DELAY * 2.0 ** (failures - 2), _LONGEST_DELAY)
        self.due[worker] = time.monotonic() + delay
        when = f"in {delay:g} s" if delay > 0 else "now"
        count = f"restart {self.n_restarts} of at most {self.max_restarts}"
        return f"{cause}. It is replaced {when}, and its environments begin anew ({count})"

    def take_due(self) -> list[int]:
        """
        :return: Indices of the workers that are to be replaced now. They are not due any more
        """
        workers = [worker for worker, due in self.due.items() if due <= time.monotonic()]
        for worker in workers:
            del self.due[worker]
        return workers

    def history(self) -> str:
        """
        :return: All deaths, for the user. Nothing if no restarts are allowed
        """
        if self.max_restarts == 0:
            return ""
        deaths = "\n".join(self._history)
        return f". It was not restarted again: max_restarts={self.max_restarts} is reached:\n{deaths}"
