"""The state of one worker's actor, as the thread that speaks with Ray sees it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sb3_a3c.backends.process.messages import EnvCall
from sb3_a3c.backends.ray.local_process import LocalProcess
from sb3_a3c.backends.ray.ray_worker import RayWorker
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.worker.errors import name_environments


@dataclass
class Slot:
    """
    :param worker: The worker
    """

    worker: RayWorker
    #: Its actor, None: it has none, because it has died.
    actor: Any = None
    process: LocalProcess = field(default_factory=LocalProcess)
    #: How many actors it has had.
    n_actors: int = 0
    #: Whether its actor has said that it is a worker, and whether one has ever.
    ready: bool = False
    was_ready: bool = False
    #: Whether it makes no more rollouts, because one has failed.
    failed: bool = False
    #: Whether its final state is known, or lost.
    finished: bool = False
    #: The call of its environments that it has not answered.
    call: EnvCall | None = None
    n_permits: int = 0
    #: Rollouts that have arrived from it, whatever the actor.
    n_rollouts: int = 0
    #: What its actor was told last.
    hyperparameters: Hyperparameters | None = None
    #: For each rollout that it was asked for and has not answered, in order: the number of updates before its pull.
    versions: dict[int, int] = field(default_factory=dict)
    #: When it has last answered, or was first asked for something after it had answered everything.
    active_at: float = 0.0
    reported: bool = False
    _n_asked: int = 0
    _answers: dict[int, Any] = field(default_factory=dict)

    @property
    def index(self) -> int:
        """Index of the worker."""
        return self.worker.index

    @property
    def name(self) -> str:
        """The worker's actor, for the user."""
        return f"the actor of worker {self.index}, which steps {name_environments(self.worker.env_indices)},"

    @property
    def may_begin(self) -> bool:
        """Whether it may be asked for one more rollout."""
        has_permit = self.n_permits > self.n_rollouts + len(self.versions)
        return has_permit and self.ready and self.actor is not None and not self.failed

    @property
    def is_awaited(self) -> bool:
        """Whether it is to start, or to answer."""
        return self.actor is not None and not self.failed and (bool(self.versions) or not self.ready)

    def ask(self, version: int) -> int:
        """
        :param version: The number of updates before the pull of a rollout that it is asked for
        :return: The number of the rollout
        """
        if not self.versions:
            self.active_at = time.monotonic()
        self._n_asked += 1
        self.versions[self._n_asked] = version
        return self._n_asked

    def answers(self, number: int, answer: Any) -> Iterator[tuple[int, Any]]:
        """
        :param number: The number of a rollout
        :param answer: What has come of it
        :return: All answers that are next in order, with the versions before their pulls. A large one may come late
        """
        self._answers[number] = answer
        while self.versions and (first := next(iter(self.versions))) in self._answers:
            yield self.versions.pop(first), self._answers.pop(first)

    def on_death(self) -> None:
        """Its actor has died. What it was asked for is not answered."""
        self.actor, self.ready, self.hyperparameters = None, False, None
        self.versions.clear()
        self._answers.clear()
        self.process.close()
