"""Workers that run ahead of the main thread: what the backends with threads and with processes have in common."""

from abc import abstractmethod
from collections import defaultdict, deque
from collections.abc import Sequence

from sb3_a3c.backends.protocol import Backend, RunSpec
from sb3_a3c.backends.quota import Quota
from sb3_a3c.system.notes import raise_first
from sb3_a3c.worker.rollout import Rollout

#: How the note of an exception begins that is not the first one.
ANOTHER = "another worker failed too: "


class AsynchronousBackend(Backend):
    """
    See :class:`~sb3_a3c.backends.protocol.Backend`. A worker needs a permit for each rollout. It may begin with one; its first
    rollout tells how many more it gets, see :class:`MaxLead`; then each rollout that the main thread is done with renews one.

    :param run: What the run asks of it
    """

    def __init__(self, run: RunSpec) -> None:
        self._quota = Quota(run.specs, run.n_rollouts, run.rollout_order)
        self._max_lead = run.max_lead
        #: Workers that have sent a rollout.
        self._known: set[int] = set()
        self._arrived: defaultdict[int, deque[Rollout]] = defaultdict(deque)
        self._collected: list[Rollout] = []
        #: What workers failed with. The first one may be being raised already.
        self._failures: list[BaseException] = []
        self._failed_workers: list[int] = []

    @property
    def failed_workers(self) -> Sequence[int]:
        """See :attr:`Backend.failed_workers`."""
        return self._failed_workers

    def collect(self) -> list[Rollout]:
        """See :meth:`Backend.collect`."""
        for rollout in self._collected:
            self._renew_permit(rollout.worker)
        self._collected = []
        for worker in self.workers:
            arrived = self._arrived[self._quota.key(worker.index)]
            while not arrived:
                self._receive()
            self._collected.append(arrived.popleft())
        return self._collected

    @abstractmethod
    def _receive(self) -> None:
        """Wait for a message of a worker, and handle it. May return without one. Raises what a worker failed with."""

    @abstractmethod
    def _permit(self, worker: int, n_rollouts: int) -> None:
        """Let a worker be up to ``n_rollouts`` ahead. Called once per worker."""

    @abstractmethod
    def _renew_permit(self, worker: int) -> None:
        """Let a worker begin one more rollout."""

    def _keep(self, worker: int, rollouts: Sequence[Rollout]) -> None:
        """Keep rollouts that have arrived until the main thread asks for them."""
        if worker not in self._known:
            self._known.add(worker)
            self._permit(worker, self._max_lead.of(rollouts[0]))
        self._arrived[self._quota.key(worker)].extend(rollouts)

    def _note_failure(self, worker: int, failure: BaseException) -> None:
        """Keep what a worker failed with until it is raised."""
        self._failures.append(failure)
        self._failed_workers.append(worker)

    def _raise_failures(self, error: BaseException | None) -> None:
        """
        Raise what workers failed with.

        :param error: The exception that is being raised already. Then failures become notes of it
        """
        failures, self._failures = self._failures, []
        raise_first(failures, error, ANOTHER)
