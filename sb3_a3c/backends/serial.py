"""
Workers in turn, in the caller's thread. Nothing happens at the same time, so a run with a seed repeats bit for bit.

A single worker waits for the callbacks that see its rollout before it learns from it, as A2C does.
"""

from typing import Self

from stable_baselines3.common.buffers import RolloutBuffer

from sb3_a3c.backends.protocol import Backend, RunSpec
from sb3_a3c.system.torch_threads import OneTorchThread, TorchThreadsOfOthers
from sb3_a3c.worker.rollout import Rollout
from sb3_a3c.worker.worker import make_workers


class SerialBackend(Backend):
    """
    See :class:`~sb3_a3c.backends.protocol.Backend`. A worker is never ahead, and rollouts arrive in the order of the workers.

    :param run: What the run asks of it
    """

    is_repeatable = True

    def __init__(self, run: RunSpec) -> None:
        self.workers = make_workers(run.specs, run.parameters)
        self._waits = len(self.workers) == 1
        self._one_torch_thread = OneTorchThread(len(self.workers))
        self._torch_threads = TorchThreadsOfOthers()

    def __enter__(self) -> Self:
        self._torch_threads.__enter__()
        return self

    def collect(self) -> list[Rollout]:
        """See :meth:`Backend.collect`."""
        if self._waits:
            self.workers[0].collect()
            return [self.workers[0].collected()]
        with self._one_torch_thread:
            return [worker.step() for worker in self.workers]

    def learn(self, rollouts: list[Rollout], written: RolloutBuffer | None) -> list[Rollout]:
        """See :meth:`Backend.learn`."""
        return [self.workers[0].learn(written)] if self._waits else rollouts

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        self._one_torch_thread.__exit__()  # an exception may have come before it was called
        self._torch_threads.__exit__()
