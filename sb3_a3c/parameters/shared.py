"""
The parameters that all workers share: pulled before a rollout, and pushed to, a gradient at a time, after it.

What is guaranteed. With ``use_locking=True`` a pull sees the vector between two updates, and no update is lost. A push
that ends in the middle, for its process was killed or the user has pressed Ctrl-C, leaves all as it was: there are two
places for all that it changes, it reads one and writes the other, and then a single store of eight bytes says that this
is the one that holds. With ``use_locking=False`` (Hogwild, Recht et al. 2011) vectors are read and stepped in one place
without a lock: a pull may see half of an update, of two updates at the same instant a part may be lost, and half of one
stays from a process that was killed. An optimizer without a kernel here (``TorchOptimizer``)
steps in one place too, though with the lock: half of an update stays if its step is interrupted. Counters and normalization
statistics are exact in all cases. What is assumed: nothing of the GIL. No caller holds a lock of its own while it pulls or
pushes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_a3c.envs.normalization import JournaledMeanStd, SharedMeanStd, moments_of, set_moments
from sb3_a3c.kernels import optimizers as kernels
from sb3_a3c.parameters.layout import Layout, Vector
from sb3_a3c.parameters.optimizers import TorchOptimizer, make_optimizer
from sb3_a3c.system.file_lock import FileLock
from sb3_a3c.system.locks import Lock, ThreadLock
from sb3_a3c.system.memory import Memory


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
    :param counts: Gradients applied, environment steps, how many more steps the optimizer has made than gradients, and
        whether any parameter was left out of a step
    :param skips: For each parameter, how many of the optimizer's steps have left it out
    """

    index: int
    vectors: list[Memory]
    buffers: list[th.Tensor]
    statistics: list[SharedMeanStd]
    counts: Memory
    skips: Memory

    def n_steps(self) -> list[int]:
        """For each parameter, how many steps the optimizer has made."""
        n_updates, _, first_step, _ = self.counts.array.tolist()
        return [n_updates + first_step - n_skips for n_skips in self.skips.array.tolist()]

    def set_n_steps(self, n_steps: Sequence[int]) -> None:
        """The other way of :meth:`n_steps`."""
        most = max(n_steps)
        self.skips.array[:] = [most - n for n in n_steps]
        self.counts.array[2:] = most - self.counts.array[0], most > min(n_steps)

    def share(self) -> None:
        for memory in (*self.vectors, *(rms.memory for rms in self.statistics), self.counts, self.skips):
            memory.share()
        for buffer in self.buffers:
            buffer.share_memory_()


class SharedParameters:
    """
    The shared parameters (theta), with the statistics of their optimizer (the paper's shared RMSProp), the policy's
    buffers (BatchNorm) and VecNormalize's statistics.

    :param policy: The policy to start from. Only :meth:`write` reads it later, and only :meth:`save` writes it
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
        n_steps = self.optimizer.load(policy, [memory.tensor for memory in vectors[1:]])
        in_place = not use_locking or isinstance(self.optimizer, TorchOptimizer)  # both are stepped where they are
        self._places = [
            _Place(
                index,
                vectors if in_place else [Memory(memory.tensor.clone()) for memory in vectors],
                [buffer.detach().clone() for buffer in policy.buffers()],
                [SharedMeanStd(rms) for rms in statistics],
                Memory(th.tensor([0, num_timesteps, 0, 0])),
                Memory(th.zeros(len(n_steps), dtype=th.int64)),
            )
            for index in range(2)
        ]
        for place in self._places:
            place.set_n_steps(n_steps)
        #: The index of the place that holds.
        self._holding = Memory(th.zeros(1, dtype=th.int64))
        self._lock: Lock = ThreadLock()
        self._is_shared = False

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
        self._is_shared = True
        return lock

    def set_options(self, optimizer: th.optim.Optimizer) -> bool:
        """
        Let the shared optimizer go on with other options.

        :param optimizer: The policy's optimizer, with these options
        :return: False if it can't: other processes have it, or its arithmetic has no such option
        """
        return not self._is_shared and self.optimizer.set_options(optimizer)

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
        :param statistics: The worker's normalization statistics, to be set. Without them they stay as they are
        :return: The version that was pulled
        """
        with self._lock as waited:
            place = self._place()
            if self.use_locking:
                _copy(place.vectors[0], vector)
            for buffer, shared_buffer in zip(buffers, place.buffers, strict=True):
                buffer.copy_(shared_buffer)
            for rms, shared_rms in zip(statistics, place.statistics if statistics else (), strict=True):
                set_moments(rms, moments_of(shared_rms))
            n_updates, num_timesteps, _, _ = place.counts.array.tolist()
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
        without_gradient: Sequence[int] = (),
    ) -> Access:
        """
        Step theta along a gradient, with the optimizer's shared statistics, and count it.

        :param gradient: The gradient, finite and of shape ``(size,)``
        :param learning_rates: The actor's and the critic's learning rate
        :param n_timesteps: Environment steps that it was computed from
        :param buffers: The worker's buffers; the last worker's hold
        :param statistics: The worker's normalization statistics, whose journals are applied
        :param without_gradient: Indices of the parameters that have no gradient. They are not stepped
        :return: The version that this update makes
        """
        with self._lock as waited:
            old, new = self._old_and_new()
            n_updates, num_timesteps, first_step, skipping = old.counts.array.tolist()
            n_updates, num_timesteps = n_updates + 1, num_timesteps + n_timesteps
            skips: list[int] | None = None
            if skipping or without_gradient:
                new.skips.array[:] = old.skips.array
                new.skips.array[list(without_gradient)] += 1
                skipping, skips = 1, new.skips.array.tolist()
            new.counts.array[:] = n_updates, num_timesteps, first_step, skipping
            step = gradient, learning_rates, first_step + n_updates, skips, without_gradient
            for new_buffer, buffer in zip(new.buffers, buffers, strict=True):
                new_buffer.copy_(buffer)
            for rms, old_rms, new_rms in zip(statistics, old.statistics, new.statistics, strict=True):
                rms.apply_to(old_rms, new_rms)
            if self.use_locking:
                self.optimizer.step(old.vectors, new.vectors, *step)
            self._hold(new)
        if not self.use_locking:
            self.optimizer.step(old.vectors, new.vectors, *step)
        return Access(n_updates, num_timesteps, waited)

    def write(
        self, policy: ActorCriticPolicy, seen: th.Tensor, seen_buffers: Sequence[th.Tensor], with_statistics: bool
    ) -> None:
        """
        Add what has been changed in a policy, whatever has been pushed meanwhile. A parameter that nobody else has changed
        becomes exactly what it is in the policy.

        :param policy: The policy that was laid out
        :param seen: Its parameters before the change, of shape ``(size,)``
        :param seen_buffers: Its buffers before the change. Those that differ now are set
        :param with_statistics: Whether to set the statistics of the optimizer to those of the policy's, too
        """
        with self._lock:
            old, new = self._old_and_new()
            new.counts.array[:], new.skips.array[:] = old.counts.array, old.skips.array
            written, shared = self.layout.gather(policy), old.vectors[0].tensor
            new.vectors[0].tensor.copy_(th.where(shared == seen, written, shared + (written - seen)))
            for old_memory, new_memory in zip(old.vectors[1:], new.vectors[1:], strict=True):
                new_memory.tensor.copy_(old_memory.tensor)
            if with_statistics:
                new.set_n_steps(self.optimizer.load(policy, [memory.tensor for memory in new.vectors[1:]]))
            for buffer, seen_buffer, old_buffer, new_buffer in zip(
                policy.buffers(), seen_buffers, old.buffers, new.buffers, strict=True
            ):
                new_buffer.copy_(old_buffer if th.equal(buffer, seen_buffer) else buffer)
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
            self.layout.scatter(place.vectors[0].tensor, policy)
            self.optimizer.save(policy, [memory.tensor for memory in place.vectors[1:]], place.n_steps())
            for buffer, shared_buffer in zip(policy.buffers(), place.buffers, strict=True):
                buffer.copy_(shared_buffer)

    def read(self, vector: th.Tensor, buffers: Sequence[th.Tensor], statistics: Sequence[th.Tensor]) -> list[int]:
        """
        Copy parameters, buffers and optimizer statistics: as they are between two updates.

        :param vector: Where the parameters are copied to, of shape ``(size,)``
        :param buffers: Where the policy's buffers are copied to
        :param statistics: Where the optimizer's statistics are copied to, each of shape ``(size,)``
        :return: For each parameter, how many gradients the optimizer has applied
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
        """Release the lock if the caller still holds it, see :meth:`~sb3_a3c.system.locks.Lock.free`."""
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
