"""
The parameters that all workers share: pulled before a rollout, and pushed to, a gradient at a time, after it.

What is guaranteed. With ``use_locking=True`` a pull sees the vector between two updates, and no update is lost. A push
that ends in the middle, for its process was killed or the user has pressed Ctrl-C, leaves all as it was: there are two
places for all that it changes, it reads one and writes the other, and then a single store of eight bytes says that this
is the one that holds. With ``use_locking=False`` (Hogwild, Recht et al. 2011) vectors are read and stepped in one place
without a lock: a pull may see half of an update, of two updates at the same instant a part may be lost, and half of one
stays from a process that was killed. Counters and normalization statistics are exact in both. What is assumed: nothing of
the GIL. No caller holds a lock of its own while it pulls or pushes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd

import sb3_a3c.engines.kernels as kernels
from sb3_a3c.file_lock import FileLock
from sb3_a3c.layout import Layout, Vector
from sb3_a3c.locks import Lock, ThreadLock
from sb3_a3c.memory import Memory
from sb3_a3c.normalization import JournaledMeanStd, SharedMeanStd, moments_of, set_moments
from sb3_a3c.optimizers import TorchOptimizer, make_optimizer


class Access(NamedTuple):
    """
    What a pull or a push met.

    :param n_updates: The version: gradients applied so far in this call of ``learn()``, a push's own included
    :param num_timesteps: Environment steps whose gradients have been applied, the paper's global counter T
    :param waited: Seconds spent waiting for the lock
    """

    n_updates: int
    num_timesteps: int
    waited: float


@dataclass(frozen=True)
class _Place:
    """
    One of the two places for all that a push changes.

    :param index: Which of the two it is, 0 or 1
    :param vectors: The parameters, and the statistics of their optimizer
    :param buffers: The policy's buffers
    :param statistics: VecNormalize's statistics
    :param counts: Gradients applied, environment steps, and how many more steps the optimizer has made than gradients
    """

    index: int
    vectors: list[Memory]
    buffers: list[th.Tensor]
    statistics: list[SharedMeanStd]
    counts: Memory

    def n_steps(self) -> int:
        """How many steps the optimizer has made."""
        n_updates, _, first_step = self.counts.array.tolist()
        return n_updates + first_step

    def share(self) -> None:
        for memory in (*self.vectors, *(rms.memory for rms in self.statistics), self.counts):
            memory.share()
        for buffer in self.buffers:
            buffer.share_memory_()


class SharedParameters:
    """
    The shared parameters (theta), with the statistics of their optimizer (the paper's shared RMSProp), the policy's
    buffers (BatchNorm) and VecNormalize's statistics.

    :param policy: The policy to start from; it is read and written by :meth:`load` and :meth:`save` alone
    :param layout: Where each parameter lies in the vector
    :param statistics: The normalization statistics to start from; they are copied
    :param num_timesteps: Environment steps so far
    :param use_locking: Whether updates are atomic
    :param compiled: Whether compiled code copies and steps the vector: it keeps the GIL, where each operation of torch
        would hand it to another worker, and rounds otherwise than torch. It takes parameters in float32 on the CPU
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        layout: Layout,
        statistics: Sequence[RunningMeanStd] = (),
        num_timesteps: int = 0,
        use_locking: bool = True,
        compiled: bool = False,
    ) -> None:
        self.layout = layout
        vector = layout.gather(policy)
        self.optimizer = make_optimizer(policy, vector, layout, compiled)
        # An optimizer of another make keeps gradients on its parameters, so two workers can't step it at once.
        self.use_locking = use_locking or isinstance(self.optimizer, TorchOptimizer)
        self._compiled = compiled and not isinstance(self.optimizer, TorchOptimizer)
        vectors = self.optimizer.vectors(vector)
        n_steps = self.optimizer.load(policy, vectors)
        in_place = not use_locking or isinstance(self.optimizer, TorchOptimizer)  # both are stepped where they are
        self._places = [
            _Place(
                index,
                vectors if in_place else [Memory(memory.tensor.clone()) for memory in vectors],
                [buffer.detach().clone() for buffer in policy.buffers()],
                [SharedMeanStd(rms) for rms in statistics],
                Memory(th.tensor([0, num_timesteps, n_steps])),
            )
            for index in range(2)
        ]
        #: The index of the place that holds.
        self._holding = Memory(th.zeros(1, dtype=th.int64))
        self._lock: Lock = ThreadLock()

    def share_memory(self) -> FileLock:
        """
        Move all of it to memory that worker processes see too, with a lock between processes. To be called before
        there are any, and used in this process by one thread from then on.

        :return: The lock that they take
        :raises ValueError: if the optimizer keeps statistics of its own, which can't be shared
        """
        if isinstance(self.optimizer, TorchOptimizer):
            raise ValueError(
                "backend must be 'thread' or 'serial' for this optimizer, but it is 'process': worker processes share the "
                "statistics of RMSprop, RMSpropTFLike and Adam, with their plain options, and not those of "
                f"{type(self.optimizer.policy.optimizer).__name__} with these"
            )
        self._holding.share()
        for place in self._places:
            place.share()
        self._lock = lock = FileLock()
        return lock

    @property
    def vector(self) -> th.Tensor:
        """Theta, of shape ``(size,)``, until the next push."""
        return self._place().vectors[0].tensor

    @property
    def statistics(self) -> list[SharedMeanStd]:
        """The normalization statistics, until the next push."""
        return self._place().statistics

    @property
    def n_updates(self) -> int:
        """Gradients applied so far in this call of ``learn()``."""
        return int(self._place().counts.array[0])

    @property
    def num_timesteps(self) -> int:
        """Environment steps whose gradients have been applied."""
        return int(self._place().counts.array[1])

    def native(self, vector: th.Tensor) -> Vector:
        """
        :param vector: A worker's vector, of shape ``(size,)``
        :return: The same memory, as pull and push are quickest with
        """
        return vector.numpy() if self._compiled else vector

    def pull(self, vector: Vector, buffers: Sequence[th.Tensor], statistics: Sequence[JournaledMeanStd] = ()) -> Access:
        """
        theta' <- theta, and the same for all that goes with it.

        :param vector: The worker's parameters, of shape ``(size,)``, to be written
        :param buffers: The worker's buffers, to be written
        :param statistics: The worker's normalization statistics, to be set
        :return: The version that was pulled
        """
        with self._lock as waited:
            place = self._place()
            if self.use_locking:
                _copy(place.vectors[0], vector)
            for buffer, shared_buffer in zip(buffers, place.buffers, strict=True):
                buffer.copy_(shared_buffer)
            for rms, shared_rms in zip(statistics, place.statistics, strict=True):
                set_moments(rms, moments_of(shared_rms))
            n_updates, num_timesteps, _ = place.counts.array.tolist()
        if not self.use_locking:
            _copy(place.vectors[0], vector)
        return Access(n_updates, num_timesteps, waited)

    def push(
        self,
        gradient: Vector,
        learning_rates: Sequence[float],
        n_timesteps: int,
        buffers: Sequence[th.Tensor] = (),
        statistics: Sequence[JournaledMeanStd] = (),
    ) -> Access:
        """
        Step theta along a gradient, with the optimizer's shared statistics, and count it.

        :param gradient: The gradient, finite and of shape ``(size,)``
        :param learning_rates: The actor's and the critic's learning rate
        :param n_timesteps: Environment steps that it was computed from
        :param buffers: The worker's buffers; the last worker's hold
        :param statistics: The worker's normalization statistics, whose journals are applied
        :return: The version that this update makes
        """
        with self._lock as waited:
            old, new = self._old_and_new()
            n_updates, num_timesteps, first_step = old.counts.array.tolist()
            n_updates, num_timesteps = n_updates + 1, num_timesteps + n_timesteps
            new.counts.array[:] = n_updates, num_timesteps, first_step
            for new_buffer, buffer in zip(new.buffers, buffers, strict=True):
                new_buffer.copy_(buffer)
            for rms, old_rms, new_rms in zip(statistics, old.statistics, new.statistics, strict=True):
                rms.apply_to(old_rms, new_rms)
            if self.use_locking:
                self.optimizer.step(old.vectors, new.vectors, gradient, learning_rates, first_step + n_updates)
            self._hold(new)
        if not self.use_locking:
            self.optimizer.step(old.vectors, new.vectors, gradient, learning_rates, first_step + n_updates)
        return Access(n_updates, num_timesteps, waited)

    def load(self, policy: ActorCriticPolicy) -> None:
        """
        Set parameters, buffers and optimizer statistics to a policy's.

        :param policy: The policy that was laid out
        """
        with self._lock:
            old, new = self._old_and_new()
            n_steps = self.optimizer.load(policy, new.vectors)
            n_updates, num_timesteps, _ = old.counts.array.tolist()
            new.counts.array[:] = n_updates, num_timesteps, n_steps - n_updates
            for new_buffer, buffer in zip(new.buffers, policy.buffers(), strict=True):
                new_buffer.copy_(buffer)
            for old_rms, new_rms in zip(old.statistics, new.statistics, strict=True):
                set_moments(new_rms, moments_of(old_rms))
            self._hold(new)

    def save(self, policy: ActorCriticPolicy) -> None:
        """
        Write parameters, buffers and optimizer statistics into a policy: as they are between two updates.

        :param policy: The policy that was laid out
        """
        with self._lock:
            place = self._place()
            self.optimizer.save(policy, place.vectors, place.n_steps())
            for buffer, shared_buffer in zip(policy.buffers(), place.buffers, strict=True):
                buffer.copy_(shared_buffer)

    def read(self, vector: th.Tensor, buffers: Sequence[th.Tensor], statistics: Sequence[th.Tensor]) -> int:
        """
        Copy parameters, buffers and optimizer statistics: as they are between two updates.

        :param vector: Where the parameters are copied to, of shape ``(size,)``
        :param buffers: Where the policy's buffers are copied to
        :param statistics: Where the optimizer's statistics are copied to, each of shape ``(size,)``
        :return: How many gradients the optimizer has applied
        """
        with self._lock:
            place = self._place()
            _copy(place.vectors[0], vector)
            for buffer, shared_buffer in zip(buffers, place.buffers, strict=True):
                buffer.copy_(shared_buffer)
            for statistic, shared_statistic in zip(statistics, place.vectors[1:], strict=True):
                _copy(shared_statistic, statistic)
            return place.n_steps()

    def free(self) -> None:
        """Release the lock if the caller still holds it, see :meth:`~sb3_a3c.locks.Lock.free`."""
        self._lock.free()

    def _place(self) -> _Place:
        return self._places[self._holding.array.item()]

    def _old_and_new(self) -> tuple[_Place, _Place]:
        """The place that holds, and the one that is to be written."""
        holding = self._holding.array.item()
        return self._places[holding], self._places[1 - holding]

    def _hold(self, place: _Place) -> None:
        """A process that is killed has made this store or has not, for the eight bytes are stored at once."""
        self._holding.array[0] = place.index


def _copy(memory: Memory, vector: Vector) -> None:
    if isinstance(vector, np.ndarray):
        kernels.copy(memory.array, vector)
    else:
        vector.copy_(memory.tensor)
