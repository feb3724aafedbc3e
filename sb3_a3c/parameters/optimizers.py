"""
Optimizer steps on a flat vector: the arithmetic of RMSprop, RMSpropTFLike and Adam over all parameters at once.

The operations are those of the classes with these names, in the same order, so that each element comes out the same to
the last bit; a vector takes one call where a policy takes one a parameter. Any other optimizer is stepped as it is
(:class:`TorchOptimizer`).

Nothing here locks. :class:`~sb3_a3c.parameters.shared.SharedParameters` decides whether two workers may step at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import update_learning_rate

from sb3_a3c.kernels import optimizers as kernels
from sb3_a3c.parameters.layout import Layout, Vector
from sb3_a3c.policies.copies import clone_policy
from sb3_a3c.system.memory import Memory


class FlatOptimizer(ABC):
    """
    An optimizer over a flat vector, with statistics that are vectors of the same shape (the paper's shared RMSProp). All
    of them together, the parameters first, are the vectors that its methods take; it keeps none itself.

    :param options: The optimizer's options, as in ``param_groups``
    :param layout: What lies where in a vector
    :param compiled: Whether compiled code steps it, which keeps the GIL, and rounds otherwise than torch
    """

    #: The optimizer whose arithmetic this is.
    torch_class: ClassVar[type[th.optim.Optimizer]]
    #: The options that this class knows; one of any other value needs the optimizer itself.
    free_options: ClassVar[frozenset[str]]
    #: What each statistic holds before the first update.
    initial: ClassVar[dict[str, float]]

    def __init__(self, options: dict[str, Any], layout: Layout, compiled: bool = False) -> None:
        self.options = options
        self.compiled = compiled
        self.layout = layout

    def vectors(self, vector: th.Tensor) -> list[Memory]:
        """
        :param vector: Parameters, of shape ``(size,)``
        :return: The same, and new statistics
        """
        return [Memory(vector), *(Memory(th.full_like(vector, value)) for value in self.initial.values())]

    def step(
        self,
        old: Sequence[Memory],
        new: Sequence[Memory],
        gradient: Vector,
        learning_rates: Sequence[float],
        n_steps: int,
        skips: Sequence[int] | None = None,
        without_gradient: Collection[int] = (),
    ) -> None:
        """
        Apply one gradient.

        :param old: The vectors before the step
        :param new: The vectors after it, to be written; the same: in place
        :param gradient: The gradient, of shape ``(size,)``
        :param learning_rates: The learning rate of each part of the layout
        :param n_steps: How many gradients this makes, counted from 1
        :param skips: For each parameter, how many of these gradients left it out. None: no gradient left one out
        :param without_gradient: Indices of the parameters that this gradient leaves out. They and their statistics stay
            what they are
        """
        update: Callable[..., None] = self._update
        grad: Any = gradient
        vectors: list[Any]
        new_vectors: list[Any]
        if self.compiled:
            update, grad = self._update_compiled, np.asarray(gradient)
            vectors, new_vectors = [memory.array for memory in old], [] if new is old else [memory.array for memory in new]
        else:
            vectors, new_vectors = [memory.tensor for memory in old], [memory.tensor for memory in new]
        if skips is None and len(self.layout.parts) == 1:  # slicing takes a while compared with a small update
            update(grad, vectors, new_vectors, learning_rates[0], n_steps)
            return
        n_skips = [0] * len(self.layout.names) if skips is None else skips
        keys = [None if index in without_gradient else n for index, n in enumerate(n_skips)]
        for segment, part, n_skipped in self.layout.segments(keys):
            if n_skipped is None:
                for memory, new_memory in zip(old, new, strict=True) if new is not old else ():
                    new_memory.tensor[segment] = memory.tensor[segment]
                continue
            segments, new_segments = [vector[segment] for vector in vectors], [vector[segment] for vector in new_vectors]
            update(grad[segment], segments, new_segments, learning_rates[part], n_steps - n_skipped)

    @abstractmethod
    def _update(
        self,
        grad: th.Tensor,
        tensors: Sequence[th.Tensor],
        new_tensors: Sequence[th.Tensor],
        learning_rate: float,
        n_steps: int,
    ) -> None:
        """From ``tensors``, parameters and statistics, to ``new_tensors``; all are of shape ``(n,)``."""

    @abstractmethod
    def _update_compiled(
        self,
        grad: np.ndarray,
        arrays: Sequence[np.ndarray],
        new_arrays: Sequence[np.ndarray],
        learning_rate: float,
        n_steps: int,
    ) -> None:
        """The same by one call of a kernel; in place, if there are no new arrays."""

    def load(self, policy: ActorCriticPolicy, statistics: Sequence[th.Tensor]) -> list[int]:
        """
        Read the statistics of a policy's optimizer.

        :param policy: The policy that was laid out, or a clone of it
        :param statistics: The statistics, each of shape ``(size,)``, to be written
        :return: For each parameter, how many steps its optimizer has made
        """
        params = self.layout.parameters(policy)
        states = [policy.optimizer.state.get(param, {}) for param in params]
        for statistic, (name, initial) in zip(statistics, self.initial.items(), strict=True):
            values = zip(params, states, strict=True)
            self.layout.flatten([state.get(name, th.full_like(param, initial)) for param, state in values], out=statistic)
        return [int(state.get("step", 0)) for state in states]

    def save(self, policy: ActorCriticPolicy, statistics: Sequence[th.Tensor], n_steps: Sequence[int]) -> None:
        """
        Write the statistics into a policy's optimizer, as if that had stepped itself.

        :param policy: The policy that was laid out
        :param statistics: The statistics, each of shape ``(size,)``
        :param n_steps: For each parameter, how many steps have been made
        """
        states = [state if state is None else without_views(state) for state in self.states(statistics, n_steps)]
        self.show(policy, states)

    def show(self, policy: ActorCriticPolicy, states: Sequence[dict[str, Any] | None]) -> None:
        """
        :param policy: The policy that was laid out
        :param states: What its optimizer is to have of each parameter, None: nothing
        """
        for param, state in zip(self.layout.parameters(policy), states, strict=True):
            if state is None:
                policy.optimizer.state.pop(param, None)
            else:
                policy.optimizer.state[param] = state

    def states(self, statistics: Sequence[th.Tensor], n_steps: Sequence[int]) -> list[dict[str, Any] | None]:
        """
        :param statistics: The statistics, each of shape ``(size,)``
        :param n_steps: For each parameter, how many steps have been made
        :return: What torch's optimizer has of each parameter, None before its first step. The statistics are views
        """
        rows = zip(*map(self.layout.views, statistics), strict=True)
        return [
            {"step": self.step_entry(n), **dict(zip(self.initial, row, strict=True))} if n > 0 else None
            for n, row in zip(n_steps, rows, strict=True)
        ]

    def step_entry(self, n_steps: int) -> th.Tensor | int:
        """
        :param n_steps: Gradients that have been applied
        :return: What torch's optimizer has for it among its statistics
        """
        return th.tensor(float(n_steps))

    @classmethod
    def fits(cls, optimizer: th.optim.Optimizer, params: list[th.nn.Parameter]) -> bool:
        """
        :param optimizer: The optimizer of a policy
        :param params: The policy's trainable parameters
        :return: Whether this class computes what that optimizer does
        """
        if type(optimizer) is not cls.torch_class or len(optimizer.param_groups) != 1:
            return False
        if cls.other_options(optimizer):
            return False
        stepped = set(map(id, optimizer.param_groups[0]["params"]))
        states = [optimizer.state.get(param, {}) for param in params]
        return all(id(param) in stepped for param in params) and all(
            not state or set(state) == {"step", *cls.initial} for state in states
        )

    def set_options(self, optimizer: th.optim.Optimizer) -> bool:
        """
        :param optimizer: The policy's optimizer, whose options are to be taken over
        :return: Whether they are
        """
        if type(optimizer) is not self.torch_class or len(optimizer.param_groups) != 1 or self.other_options(optimizer):
            return False
        self.options = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
        return True

    @classmethod
    def other_options(cls, optimizer: th.optim.Optimizer) -> dict[str, Any]:
        """
        :param optimizer: The optimizer of a policy, with one group of parameters
        :return: Those of its options that this class does not compute with, and that are not off
        """
        known = cls.free_options | {"params", "lr", "initial_lr"}
        return {name: value for name, value in optimizer.param_groups[0].items() if name not in known and value}


class RMSprop(FlatOptimizer):
    """``v <- alpha v + (1 - alpha) g^2; x <- x - lr g / (sqrt(v) + eps)`` (:class:`torch.optim.RMSprop`)."""

    torch_class: ClassVar[type[th.optim.Optimizer]] = th.optim.RMSprop
    free_options = frozenset({"alpha", "eps"})
    initial = {"square_avg": 0.0}
    kernel = staticmethod(kernels.rmsprop_step)

    def _update(
        self,
        grad: th.Tensor,
        tensors: Sequence[th.Tensor],
        new_tensors: Sequence[th.Tensor],
        learning_rate: float,
        n_steps: int,
    ) -> None:
        (params, square_avg), (new_params, new_square_avg) = tensors, new_tensors
        alpha = self.options["alpha"]
        th.mul(square_avg, alpha, out=new_square_avg).addcmul_(grad, grad, value=1 - alpha)
        th.addcdiv(params, grad, self._denominator(new_square_avg), value=-learning_rate, out=new_params)

    def _denominator(self, square_avg: th.Tensor) -> th.Tensor:
        return square_avg.sqrt().add_(self.options["eps"])

    def _update_compiled(
        self,
        grad: np.ndarray,
        arrays: Sequence[np.ndarray],
        new_arrays: Sequence[np.ndarray],
        learning_rate: float,
        n_steps: int,
    ) -> None:
        params, square_avg = arrays
        alpha, eps = float(self.options["alpha"]), float(self.options["eps"])
        self.kernel(params, grad, square_avg, learning_rate, alpha, eps, *new_arrays)


class RMSpropTensorFlow(RMSprop):
    """``v <- alpha v + (1 - alpha) g^2; x <- x - lr g / sqrt(v + eps)``, v from 1 (SB3's ``RMSpropTFLike``)."""

    torch_class = RMSpropTFLike
    initial = {"square_avg": 1.0}
    kernel = staticmethod(kernels.rmsprop_tf_step)

    def _denominator(self, square_avg: th.Tensor) -> th.Tensor:
        return square_avg.add(self.options["eps"]).sqrt_()

    def step_entry(self, n_steps: int) -> int:
        """As :meth:`FlatOptimizer.step_entry`; here it is a number."""
        return n_steps


class Adam(FlatOptimizer):
    """``m, v``: bias-corrected averages of ``g, g^2``; ``x <- x - lr m / (sqrt(v) + eps)`` (:class:`torch.optim.Adam`)."""

    torch_class = th.optim.Adam
    free_options = frozenset({"betas", "eps"})
    initial = {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _update(
        self,
        grad: th.Tensor,
        tensors: Sequence[th.Tensor],
        new_tensors: Sequence[th.Tensor],
        learning_rate: float,
        n_steps: int,
    ) -> None:
        (params, exp_avg, exp_avg_sq), (new_params, new_exp_avg, new_exp_avg_sq) = tensors, new_tensors
        beta1, beta2 = self.options["betas"]
        th.lerp(exp_avg, grad, 1 - beta1, out=new_exp_avg)
        th.mul(exp_avg_sq, beta2, out=new_exp_avg_sq).addcmul_(grad, grad, value=1 - beta2)
        bias_correction1, bias_correction2 = 1 - beta1**n_steps, 1 - beta2**n_steps
        denominator = (new_exp_avg_sq.sqrt() / bias_correction2**0.5).add_(self.options["eps"])
        th.addcdiv(params, new_exp_avg, denominator, value=-(learning_rate / bias_correction1), out=new_params)

    def _update_compiled(
        self,
        grad: np.ndarray,
        arrays: Sequence[np.ndarray],
        new_arrays: Sequence[np.ndarray],
        learning_rate: float,
        n_steps: int,
    ) -> None:
        params, exp_avg, exp_avg_sq = arrays
        (beta1, beta2), eps = map(float, self.options["betas"]), float(self.options["eps"])
        kernels.adam_step(params, grad, exp_avg, exp_avg_sq, learning_rate, beta1, beta2, eps, n_steps, *new_arrays)


class TorchOptimizer:
    """
    Any other optimizer, stepped as it is: slower, with one call per parameter. It keeps its statistics itself and steps one
    vector in place. Two workers must not step it at once.

    :param policy: The policy whose optimizer this is
    :param vector: The vector that it steps
    :param layout: What lies where in the vector
    """

    def __init__(self, policy: ActorCriticPolicy, vector: th.Tensor, layout: Layout) -> None:
        self.layout = layout
        self.policy = clone_policy(policy)
        layout.bind(self.policy, vector)

    def vectors(self, vector: th.Tensor) -> list[Memory]:
        """See :meth:`FlatOptimizer.vectors`. There is only one."""
        return [Memory(vector)]

    def step(
        self,
        old: Sequence[Memory],
        new: Sequence[Memory],
        gradient: Vector,
        learning_rates: Sequence[float],
        n_steps: int,
        skips: Sequence[int] | None = None,
        without_gradient: Collection[int] = (),
    ) -> None:
        """See :meth:`FlatOptimizer.step`. Parameters of another part have no gradient meanwhile, so they stay."""
        assert isinstance(gradient, th.Tensor)
        params, views = self.layout.parameters(self.policy), self.layout.views(gradient)
        for part, learning_rate in zip(self.layout.parts, learning_rates, strict=False):
            for index, (param, where) in enumerate(zip(params, self.layout.slices, strict=True)):
                has_gradient = part.start <= where.start < part.stop and index not in without_gradient
                param.grad = views[index] if has_gradient else None
            update_learning_rate(self.policy.optimizer, learning_rate)
            self.policy.optimizer.step()

    def load(self, policy: ActorCriticPolicy, statistics: Sequence[th.Tensor]) -> list[int]:
        """See :meth:`FlatOptimizer.load`. The optimizer counts its steps itself."""
        self.policy.optimizer.load_state_dict(deepcopy(policy.optimizer.state_dict()))  # it would keep our tensors
        return [0] * len(self.layout.names)

    def save(self, policy: ActorCriticPolicy, statistics: Sequence[th.Tensor], n_steps: Sequence[int]) -> None:
        """See :meth:`FlatOptimizer.save`."""
        policy.optimizer.load_state_dict(deepcopy(self.policy.optimizer.state_dict()))

    def set_options(self, optimizer: th.optim.Optimizer) -> bool:
        """See :meth:`FlatOptimizer.set_options`."""
        if type(optimizer) is not type(self.policy.optimizer):
            return False
        for group, new_group in zip(self.policy.optimizer.param_groups, optimizer.param_groups, strict=True):
            group.update({name: value for name, value in new_group.items() if name != "params"})
        return True


def without_views(state: dict[str, Any]) -> dict[str, Any]:
    """
    :param state: What an optimizer has of one parameter
    :return: The same with tensors of its own
    """
    return {name: value.clone() if isinstance(value, th.Tensor) else value for name, value in state.items()}


def make_optimizer(
    policy: ActorCriticPolicy, vector: th.Tensor, layout: Layout, compiled: bool = False
) -> FlatOptimizer | TorchOptimizer:
    """
    :param policy: The policy whose optimizer is to step the vector
    :param vector: That vector, of shape ``(size,)``
    :param layout: What lies where in the vector
    :param compiled: Whether compiled code is to step it, where there is some
    :return: An optimizer that does what the policy's own does
    """
    for flat_class in (RMSprop, RMSpropTensorFlow, Adam):
        if flat_class.fits(policy.optimizer, layout.parameters(policy)):
            options = {name: value for name, value in policy.optimizer.param_groups[0].items() if name != "params"}
            return flat_class(options, layout, compiled)
    return TorchOptimizer(policy, vector, layout)
