"""
The shared parameters in memory: for threads of one process, or for the processes of one machine.

What is guaranteed. With ``use_locking=True`` a pull sees the vector between two updates, and no update is lost. A push that
ends in the middle, because its process was killed or the user pressed Ctrl-C, leaves everything as it was. The reason: there
are two places for everything that a push changes. It reads one place and writes the other. Then a single store of eight
bytes says that the other place is the current one, and that store is done or not done.

With ``use_locking=False`` (Hogwild, Recht et al. 2011) vectors are pulled and stepped in one place without a lock. A pull may
see half of an update, parts of two simultaneous updates may be lost, and half of an update stays if its process is killed. A
:class:`~sb3_a3c.parameters.optimizers.WholeOptimizer` steps in one place too, though with the lock: half of an update stays
if its step is interrupted. An optimizer that keeps numbers other than a count of steps (NAdam) is always stepped with the
lock. Counters and normalization statistics are exact in all cases.

None of this relies on the GIL. Callers hold no other lock while they pull or push.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_a3c.envs.normalization import moments_of
from sb3_a3c.kernels import optimizers as kernels
from sb3_a3c.parameters.finite import check_step
from sb3_a3c.parameters.flat_optimizer import FlatOptimizer, State
from sb3_a3c.parameters.layout import Layout, Vector
from sb3_a3c.parameters.optimizers import WholeOptimizer, make_optimizer
from sb3_a3c.parameters.protocol import Access, Push
from sb3_a3c.system.file_lock import FileLock
from sb3_a3c.system.locks import Lock, ThreadLock
from sb3_a3c.system.memory import Memory, share_together


@dataclass(frozen=True)
class _Place:
    """
    One of the two places for everything that a push changes.

    :param index: Which of the two it is, 0 or 1
    :param state: The parameters and the statistics of their optimizer
    :param buffers: The policy's buffers
    :param statistics: VecNormalize's statistics, see :func:`~sb3_a3c.envs.normalization.moments_of`
    :param counts: Gradients applied, and environment steps
    """

    index: int
    state: State
    buffers: list[th.Tensor]
    statistics: list[Memory]
    counts: Memory

    def small(self) -> list[Memory]:
        """Everything but the buffers and the state's long vectors."""
        return [self.state.numbers, self.state.uneven, *self.statistics, self.counts]


class SharedParameters:
    """
    See :class:`~sb3_a3c.parameters.protocol.Parameters`. With the parameters (theta) it holds the statistics of their
    optimizer (the paper's shared RMSProp), the policy's buffers (BatchNorm) and VecNormalize's statistics.

    :param policy: The policy to start from
    :param layout: The positions of parameters in the vector
    :param statistics: The normalization statistics to start from. They are copied
    :param num_timesteps: Environment steps so far
    :param use_locking: Whether updates are atomic
    :param compiled: Whether compiled code steps the vector, if the optimizer has a compiled step and the parameters are in
        float32 on the CPU. It reads and writes memory once, keeps the GIL, where each operation of torch hands it to another
        worker, and rounds differently from torch
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
        compiled = compiled and vector.dtype == th.float32 and vector.device.type == "cpu"
        self.optimizer = make_optimizer(policy, vector, layout, compiled)
        # Two workers can't make the numbers of an optimizer at the same time.
        self.use_locking = use_locking or self.optimizer.makes_numbers
        self._compiled = compiled
        states = [self.optimizer.new_state(vector), self.optimizer.new_state(vector.clone())]
        if not self.use_locking or isinstance(self.optimizer, WholeOptimizer):  # both are stepped in place
            states[1] = states[1]._replace(vectors=states[0].vectors)
        for state in states:
            self.optimizer.load(policy, state)
        self._places = [
            _Place(
                index,
                state,
                [buffer.detach().clone() for buffer in policy.buffers()],
                [Memory(th.from_numpy(moments_of(rms))) for rms in statistics],
                Memory(th.tensor([0, num_timesteps], device="cpu")),
            )
            for index, state in enumerate(states)
        ]
        #: The index of the current place.
        self._current = Memory(th.zeros(1, dtype=th.int64, device="cpu"))
        self._lock: Lock = ThreadLock()
        self._is_shared = False

    def share_memory(self) -> FileLock:
        """
        Move everything to memory that worker processes see too, with a lock between processes. It must be called before
        they start. From then on one thread of this process may use it.

        :return: The lock that they take
        :raises ValueError: if the optimizer keeps its statistics itself
        """
        if isinstance(self.optimizer, WholeOptimizer):
            raise ValueError(
                "backend must be 'thread' or 'serial' for this optimizer, but it is 'process': worker processes share the "
                "statistics of optimizers that compute each element on its own, and "
                f"{self.optimizer.torch_class.__name__} with these options does not"
            )
        for vector in (vector for place in self._places for vector in place.state.vectors):
            vector.share()
        small = [memory for place in self._places for memory in place.small()]
        share_together([self._current, *small], [buffer for place in self._places for buffer in place.buffers])
        self._lock = lock = FileLock()
        self._is_shared = True
        return lock

    def set_options(self, policy: ActorCriticPolicy) -> bool:
        """
        Let the shared optimizer go on with the options of a policy's optimizer.

        :param policy: The policy that was laid out
        :return: False if it can't: other processes use it, or the options need other statistics
        """
        if self._is_shared or type(policy.optimizer) is not self.optimizer.torch_class:
            return False
        with self._lock:
            if isinstance(self.optimizer, WholeOptimizer):
                self.optimizer.use(policy)
                return True
            other = make_optimizer(policy, self.vector, self.layout, self._compiled)
            if isinstance(other, WholeOptimizer) or list(other.kept) != list(self.optimizer.kept):
                return False
            self.optimizer = other
        return True

    @property
    def vector(self) -> th.Tensor:
        """Theta, of shape ``(size,)``, until the next push."""
        return self._place().state.vectors[0].tensor

    @property
    def moments(self) -> list[np.ndarray]:
        """The normalization statistics, see :func:`~sb3_a3c.envs.normalization.moments_of`."""
        return [memory.array.copy() for memory in self._place().statistics]

    @moments.setter
    def moments(self, moments: Sequence[np.ndarray]) -> None:
        """Only a single worker's statistics are set, while it waits."""
        for memory, of_one in zip(self._place().statistics, moments, strict=True):
            memory.array[:] = of_one

    @property
    def n_updates(self) -> int:
        """Gradients applied so far in this call of ``learn()``."""
        return int(self._place().counts.array[0])

    @property
    def num_timesteps(self) -> int:
        """Environment steps whose gradients have been applied."""
        return int(self._place().counts.array[1])

    def new_buffers(self) -> list[th.Tensor]:
        """
        :return: Copies of the policy's buffers, for :meth:`pull`
        """
        return [buffer.clone() for buffer in self._place().buffers]

    def pull(self, vector: Vector, buffers: Sequence[th.Tensor]) -> Access:
        """See :meth:`Parameters.pull`."""
        with self._lock as waited:
            place = self._place()
            if self.use_locking:
                _copy(place.state.vectors[0], vector)
            for buffer, shared_buffer in zip(buffers, place.buffers, strict=True):
                buffer.copy_(shared_buffer)
            moments = [memory.array.copy() for memory in place.statistics]
            n_updates, num_timesteps = place.counts.array.tolist()
        if not self.use_locking:
            _copy(place.state.vectors[0], vector)
        return Access(n_updates, num_timesteps, waited, moments)

    def push(self, gradient: Vector, push: Push) -> Access:
        """See :meth:`Parameters.push`."""
        learning_rates, n_timesteps, buffers, journals, without_gradient = push
        with self._lock as waited:
            old, new, optimizer = *self._old_and_new(), self.optimizer
            n_updates, num_timesteps = old.counts.array.tolist()
            n_updates, num_timesteps = n_updates + 1, num_timesteps + n_timesteps
            new.counts.array[:] = n_updates, num_timesteps
            for new_buffer, buffer in zip(new.buffers, buffers, strict=True):
                new_buffer.copy_(buffer)
            for journal, moments, new_moments in zip(journals, old.statistics, new.statistics, strict=True):
                if journal is None:
                    new_moments.array[:] = moments.array
                else:
                    journal.count_in(moments.array, new_moments.array)
            runs = optimizer.plan(old.state, new.state, without_gradient)
            # The first step creates statistics, so Hogwild takes the lock for it.
            locked = self.use_locking or any(run.numbers[0] == 0 for run in runs)
            in_place = new.state.vectors is old.state.vectors
            if locked:
                optimizer.step(runs, old.state, new.state, gradient, learning_rates)
            if not in_place:
                check_step(new.state.vectors[0], optimizer, learning_rates, was_applied=False)
            self._set_current(new)
        if not locked:
            optimizer.step(runs, old.state, new.state, gradient, learning_rates)
        if in_place:
            check_step(new.state.vectors[0], optimizer, learning_rates, was_applied=True)
        return Access(n_updates, num_timesteps, waited)

    def write(
        self, policy: ActorCriticPolicy, seen: th.Tensor, seen_buffers: Sequence[th.Tensor], with_statistics: bool
    ) -> None:
        """
        Add what a callback has changed in a policy, whatever has been pushed meanwhile. A parameter that nobody else has
        changed becomes exactly what it is in the policy.

        :param policy: The policy that was laid out
        :param seen: Its parameters before the change, of shape ``(size,)``
        :param seen_buffers: Its buffers before the change. Those that differ now are set
        :param with_statistics: Whether to set the optimizer's statistics to those of the policy's optimizer too
        """
        with self._lock:
            old, new = self._old_and_new()
            new.state.copy_from(old.state)
            written, shared = self.layout.gather(policy), old.state.vectors[0].tensor
            new.state.vectors[0].tensor.copy_(th.where(shared == seen, written, shared + (written - seen)))
            if with_statistics:
                self.optimizer.load(policy, new.state)
            buffers = zip(policy.buffers(), seen_buffers, old.buffers, new.buffers, strict=True)
            for buffer, seen_buffer, old_buffer, new_buffer in buffers:
                new_buffer.copy_(old_buffer if th.equal(buffer, seen_buffer) else buffer)
            for memory, new_memory in zip((*old.statistics, old.counts), (*new.statistics, new.counts), strict=True):
                new_memory.array[:] = memory.array
            self._set_current(new)

    def read(self, state: State, buffers: Sequence[th.Tensor], policy: ActorCriticPolicy) -> None:
        """
        Copy parameters, buffers and optimizer statistics as they are between two updates.

        :param state: Parameters and statistics to write, see :meth:`FlatOptimizer.new_state`
        :param buffers: The policy's buffers to write
        :param policy: The policy whose optimizer is written, if the optimizer keeps its statistics itself
        """
        with self._lock:
            place = self._place()
            state.copy_from(place.state)
            for buffer, shared_buffer in zip(buffers, place.buffers, strict=True):
                buffer.copy_(shared_buffer)
            if not isinstance(self.optimizer, FlatOptimizer):
                self.optimizer.save(policy)

    def free(self) -> None:
        """Release the lock if the caller still holds it, see :meth:`~sb3_a3c.system.locks.Lock.free`."""
        self._lock.free()

    def _place(self) -> _Place:
        return self._places[self._current.array.item()]

    def _old_and_new(self) -> tuple[_Place, _Place]:
        """The current place, and the one that is to be written."""
        current = self._current.array.item()
        return self._places[current], self._places[1 - current]

    def _set_current(self, place: _Place) -> None:
        """A killed process has made this store or has not, because the eight bytes are stored at once."""
        self._current.array[0] = place.index


def _copy(memory: Memory, vector: Vector) -> None:
    if isinstance(vector, np.ndarray):
        kernels.copy(memory.array, vector)
    else:
        vector.copy_(memory.tensor)
