"""
Workers in turn, in the caller's thread: nothing at the same time, so a run with a seed repeats to the last bit.

One worker alone waits for the callbacks that see its rollout before it learns from it, as A2C does.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Self

from stable_baselines3.common.buffers import RolloutBuffer

from sb3_a3c.backends.max_lead import MaxLead
from sb3_a3c.backends.protocol import Option
from sb3_a3c.backends.quota import RolloutOrder
from sb3_a3c.envs.gate import between_steps
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.system.torch_threads import OneTorchThread
from sb3_a3c.worker.rollout import Rollout
from sb3_a3c.worker.spec import WorkerSpec, make_workers


class SerialBackend:
    """
    See :class:`~sb3_a3c.backends.protocol.Backend`. A worker is never ahead, and the first to arrive is the first.

    :param specs: What the workers are made of, in the order of their environments
    :param parameters: The shared parameters
    :param n_rollouts: How many rollouts of all environments the run has; the caller asks for no more
    :param rollout_order: Of no consequence here
    :param max_lead: Of no consequence here
    """

    elsewhere: ClassVar[bool] = False
    options: ClassVar[dict[str, Option]] = {}
    n_restarts = 0

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        parameters: SharedParameters,
        n_rollouts: int,
        rollout_order: RolloutOrder,
        max_lead: MaxLead,
    ) -> None:
        self.workers = make_workers(specs, parameters)
        self._one_torch_thread = OneTorchThread(len(specs))
        self.waits = len(self.workers) == 1
        self._collected: list[Rollout] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        self._one_torch_thread.__exit__()  # an exception may have come before it was

    def collect(self) -> list[Rollout]:
        """See :meth:`Backend.collect`."""
        if self.waits:
            self.workers[0].collect()
            return [self.workers[0].collected()]
        with self._one_torch_thread:
            self._collected = [worker.step() for worker in self.workers]
        return self._collected

    def learn(self, written: RolloutBuffer | None) -> list[Rollout]:
        """See :meth:`Backend.learn`."""
        return [self.workers[0].learn(written)] if self.waits else self._collected

    def reach(self, method: Callable) -> Callable:
        """See :meth:`Backend.reach`."""
        return between_steps(method, [worker.env_lock for worker in self.workers])
