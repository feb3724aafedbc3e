"""
An optimizer that computes each element on its own, applied to all parameters as one flat vector.

Such an optimizer of torch gives the same bits for one long vector as for many parameters, in one call instead of one per
parameter, and it keeps a few vectors of the same size and a few numbers, which workers can share. Nothing here locks:
:class:`~sb3_a3c.parameters.shared.SharedParameters` decides whether two workers may step at once.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_a3c.kernels.compilation import OPTIMIZERS
from sb3_a3c.parameters.layout import Layout, Vector
from sb3_a3c.system.memory import Memory, as_tensor

_ALL = slice(None)


class State(NamedTuple):
    """
    Parameters and the statistics of their optimizer.

    :param vectors: The parameters, then the statistics, each of shape ``(size,)``
    :param numbers: For each parameter, how many gradients have been applied to it, then the optimizer's other numbers, of
        shape ``(n_numbers, n_parameters)``
    :param uneven: Whether numbers differ between parameters, of shape ``(1,)``
    """

    vectors: list[Memory]
    numbers: Memory
    uneven: Memory

    def memories(self) -> list[Memory]:
        """
        :return: All its parts
        """
        return [*self.vectors, self.numbers, self.uneven]

    def copy_from(self, other: "State") -> None:
        """
        :param other: The state to copy
        """
        for memory, original in zip(self.memories(), other.memories(), strict=True):
            memory.copy_from(original)


class Run(NamedTuple):
    """
    Neighbouring parameters that a step treats alike.

    :param indices: Which parameters they are
    :param where: Their position in the vector
    :param rate: Which of the learning rates they have
    :param group: Index of their ``param_group``, None: they have no gradient
    :param numbers: Their numbers before the step, see :class:`State`
    """

    indices: slice
    where: slice
    rate: int
    group: int | None
    numbers: Sequence[float]


class FlatOptimizer:
    """
    It holds only the options. Parameters and statistics are arguments of its methods.

    :param policy: The policy whose optimizer it is
    :param layout: The positions of parameters in a vector
    :param kept: An example of what the optimizer keeps of a parameter
    :param compiled: Whether to use a compiled step, if there is one. It keeps the GIL and rounds differently from torch
    """

    def __init__(self, policy: ActorCriticPolicy, layout: Layout, kept: Mapping[str, Any], compiled: bool) -> None:
        optimizer, groups = policy.optimizer, policy.optimizer.param_groups
        self.torch_class = type(optimizer)
        self.layout = layout
        self.kept = dict(kept)
        self._vector_names = [name for name, value in kept.items() if _is_vector(value)]
        # Steps are counted for every optimizer, also for one that does not count them itself.
        self._number_names = ["step", *(name for name in kept if name not in ("step", *self._vector_names))]
        #: Whether a step makes numbers other than that count.
        self.makes_numbers = len(self._number_names) > 1
        self._optimizer = stand_in(optimizer, [])
        #: Its ``param_groups``, without parameters.
        self.options = [{**group, "params": []} for group in groups]
        index_of = {id(param): index for index, group in enumerate(groups) for param in group["params"]}
        self._groups = [index_of.get(id(param)) for param in layout.parameters(policy)]
        self._is_uniform = {0} == set(self._groups) == set(layout.rates)
        names: tuple[str, ...]
        kernel, names, self._counts = OPTIMIZERS.get(type(optimizer), (None, (), False))
        known = {"params", "lr", "initial_lr", *names}
        others = [value for group in groups for name, value in group.items() if name not in known]
        #: Whether compiled code steps the vector.
        self.compiled = compiled and kernel is not None and not any(others)
        self._arguments = [[float(n) for name in names for n in np.ravel(group[name])] for group in groups if self.compiled]

    def new_state(self, vector: th.Tensor) -> State:
        """
        :param vector: Parameters, of shape ``(size,)``
        :return: The same, with statistics that are zeros
        """
        numbers = th.zeros(len(self._number_names), len(self.layout.names), dtype=th.float64, device="cpu")
        vectors = [vector, *(th.zeros_like(vector) for _ in self._vector_names)]
        return State([Memory(each) for each in vectors], Memory(numbers), Memory(th.zeros(1, dtype=th.int64, device="cpu")))

    def plan(self, old: State, new: State, without_gradient: Sequence[int] = ()) -> list[Run]:
        """
        Count a step in ``new``, and divide it into runs for :meth:`step`.

        :param old: The state before the step
        :param new: The state after it
        :param without_gradient: Indices of the parameters that have no gradient. They and their statistics stay as they are
        :return: The runs
        """
        before, after = old.numbers.array, new.numbers.array
        if self._is_uniform and not without_gradient and not old.uneven.array[0]:
            numbers = before[:, 0].tolist()
            after[0].fill(numbers[0] + 1)  # the step writes the other numbers
            new.uneven.array[0] = 0
            return [Run(_ALL, _ALL, 0, 0, numbers)]
        groups = [None if index in without_gradient else group for index, group in enumerate(self._groups)]
        keys = list(zip(self.layout.rates, groups, before.T.tolist(), strict=True))
        after[:] = before
        after[0] += [group is not None for group in groups]
        new.uneven.array[0] = old.uneven.array[0] or None in groups
        return [Run(indices, where, *keys[indices.start]) for indices, where in self.layout.runs(keys)]

    def step(self, runs: Sequence[Run], old: State, new: State, gradient: Vector, learning_rates: Sequence[float]) -> None:
        """
        Apply one gradient.

        :param runs: What :meth:`plan` has returned
        :param old: The state before the step
        :param new: The state after it, to be written. If their vectors are the same, they are stepped in place
        :param gradient: The gradient, of shape ``(size,)``
        :param learning_rates: The actor's and the critic's learning rate
        """
        for run in runs:
            if run.group is None:
                _copy(old, new, run.where)
            elif self.compiled and run.numbers[0] > 0:  # torch makes the first step, which creates the statistics
                self._step_compiled(run, old, new, _part(np.asarray(gradient), run.where), learning_rates[run.rate])
            else:
                self._step(run, old, new, _part(as_tensor(gradient), run.where), learning_rates[run.rate])

    def _step_compiled(self, run: Run, old: State, new: State, gradient: np.ndarray, learning_rate: float) -> None:
        assert run.group is not None
        # Not an attribute: a kernel that is pickled arrives without its machine code, and would be compiled again.
        kernel = OPTIMIZERS[self.torch_class][0]
        arrays = [memory.array for memory in old.vectors]
        new_arrays = [memory.array for memory in new.vectors] if new.vectors is not old.vectors else []
        if run.where is not _ALL:
            arrays, new_arrays = ([array[run.where] for array in each] for each in (arrays, new_arrays))
        count = (int(run.numbers[0]) + 1,) if self._counts else ()
        kernel(arrays[0], gradient, *arrays[1:], learning_rate, *self._arguments[run.group], *count, *new_arrays)

    def _step(self, run: Run, old: State, new: State, gradient: th.Tensor, learning_rate: float) -> None:
        """Copy, and let torch's optimizer step the copy in place."""
        assert run.group is not None
        _copy(old, new, run.where)
        vector, *statistics = [_part(memory.tensor, run.where) for memory in new.vectors]
        param = vector.detach()  # another worker may step it at the same time
        param.grad = gradient
        optimizer = stand_in(self._optimizer, [{**self.options[run.group], "params": [param], "lr": learning_rate}])
        if run.numbers[0] > 0:
            optimizer.state[param] = self._entries(statistics, run.numbers)
        bare_step(optimizer)
        entries = optimizer.state[param]
        for name, statistic in zip(self._vector_names, statistics, strict=True):
            if entries[name] is not statistic:
                statistic.copy_(entries[name])
        for row, name in enumerate(self._number_names[1:], start=1):
            new.numbers.array[row, run.indices] = float(entries[name])

    def load(self, policy: ActorCriticPolicy, state: State) -> None:
        """
        Read the statistics of a policy's optimizer.

        :param policy: The policy that was laid out
        :param state: Its statistics are written
        """
        params = self.layout.parameters(policy)
        entries = [policy.optimizer.state.get(param, {}) for param in params]
        for name, memory in zip(self._vector_names, state.vectors[1:], strict=True):
            values = [entry.get(name, th.zeros_like(param)) for param, entry in zip(params, entries, strict=True)]
            self.layout.flatten(values, out=memory.tensor)
        numbers = state.numbers.array
        for row, name in zip(numbers, self._number_names, strict=True):
            row[:] = [float(entry.get(name, 1)) if entry else 0.0 for entry in entries]
        state.uneven.array[0] = (numbers != numbers[:, :1]).any()

    def entries(self, state: State) -> list[dict[str, Any] | None]:
        """
        :param state: The state of all parameters
        :return: What torch's optimizer keeps of each parameter, None: nothing yet. Its statistics are views
        """
        rows = zip(*(self.layout.views(memory.tensor) for memory in state.vectors), strict=True)
        numbers = state.numbers.array.T.tolist()
        return [
            self._entries(views[1:], of_one) if self.kept and of_one[0] > 0 else None
            for views, of_one in zip(rows, numbers, strict=True)
        ]

    def update_numbers(self, entries: Sequence[dict[str, Any] | None], state: State) -> None:
        """
        Bring the numbers in entries up to date. Their statistics are views, so they are.

        :param entries: What :meth:`entries` has returned
        :param state: The state of all parameters
        """
        for name, row in zip(self._number_names, state.numbers.array.tolist(), strict=True):
            for entry, number in zip(entries, row, strict=True):
                if entry is None or name not in entry:
                    continue
                if isinstance(entry[name], th.Tensor):
                    entry[name].fill_(number)
                else:
                    entry[name] = _alike(entry[name], number)

    def _entries(self, statistics: Sequence[th.Tensor], numbers: Sequence[float]) -> dict[str, Any]:
        values: dict[str, Any] = dict(zip(self._vector_names, statistics, strict=True))
        values |= zip(self._number_names, numbers, strict=True)
        return {name: values[name] if _is_vector(value) else _alike(value, values[name]) for name, value in self.kept.items()}


def stand_in(optimizer: th.optim.Optimizer, groups: list[dict[str, Any]]) -> th.optim.Optimizer:
    """
    :param optimizer: An optimizer
    :param groups: Groups of other parameters
    :return: The same optimizer for these, without any statistics
    """
    other = object.__new__(type(optimizer))
    vars(other).update(vars(optimizer), param_groups=groups, state=defaultdict(dict))
    vars(other).pop("step", None)  # torch's schedulers set one, which steps the original
    return other


def bare_step(optimizer: th.optim.Optimizer) -> None:
    """
    Step without what torch wraps around it: profiling, hooks and a switch of gradients take as long as the step.

    :param optimizer: An optimizer. Its tensors must not require gradients
    """
    torch_class: Any = type(optimizer)
    _bare_step_of(torch_class)(optimizer)


@cache
def _bare_step_of(torch_class: Any) -> Callable[[th.optim.Optimizer], None]:
    step: Any = torch_class.step
    while hasattr(step, "__wrapped__") and step.__globals__["__name__"].startswith("torch."):
        step = step.__wrapped__
    return step


def _is_vector(value: Any) -> bool:
    return isinstance(value, th.Tensor) and value.ndim > 0


def _alike(kept: Any, number: float) -> Any:
    """A number of the same type."""
    return th.tensor(number, dtype=kept.dtype, device=kept.device) if isinstance(kept, th.Tensor) else type(kept)(number)


def _part(vector: Any, where: slice) -> Any:
    return vector if where is _ALL else vector[where]  # a slice of everything costs as much as an operation


def _copy(old: State, new: State, where: slice) -> None:
    if new.vectors is not old.vectors:
        for memory, original in zip(new.vectors, old.vectors, strict=True):
            _part(memory.tensor, where).copy_(_part(original.tensor, where))
