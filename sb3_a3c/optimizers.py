"""
Optimizer steps on a flat vector: the arithmetic of RMSprop, RMSpropTFLike and Adam over all parameters at once.

The operations are those of the classes with these names, in the same order, so that each element comes out the same to
the last bit; a vector takes one call where a policy takes one a parameter. Any other optimizer is stepped as it is
(:class:`TorchOptimizer`).

Nothing here locks. :class:`~sb3_a3c.parameters.SharedParameters` decides whether two workers may step at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import update_learning_rate

import sb3_a3c.engines.kernels as kernels
from sb3_a3c.layout import Layout, Vector, clone_policy


class FlatOptimizer(ABC):
    """
    An optimizer over a flat vector, with statistics that are vectors of the same shape (the paper's shared RMSProp).

    :param options: The optimizer's options, as in ``param_groups``
    :param vector: The vector that it steps
    :param layout: What lies where in the vector
    :param compiled: Whether compiled code steps it, which keeps the GIL, and rounds otherwise than torch
    """

    #: The optimizer whose arithmetic this is.
    torch_class: ClassVar[type[th.optim.Optimizer]]
    #: The options that this class knows; one of any other value needs the optimizer itself.
    free_options: ClassVar[frozenset[str]]
    #: What each statistic holds before the first update.
    initial: ClassVar[dict[str, float]]

    def __init__(self, options: dict[str, Any], vector: th.Tensor, layout: Layout, compiled: bool = False) -> None:
        self.options = options
        self.compiled = compiled
        self.vector = vector
        self.layout = layout
        self.n_steps = 0
        self.statistics = {name: th.full_like(vector, value) for name, value in self.initial.items()}
        self._arrays: list[list[np.ndarray]] = []

    def step(self, gradient: Vector, learning_rates: Sequence[float], n_steps: int) -> None:
        """
        Apply one gradient.

        :param gradient: The gradient, of shape ``(size,)``
        :param learning_rates: The learning rate of each part of the layout
        :param n_steps: How many gradients this makes, counted from 1
        """
        if self.compiled:
            self._step_compiled(np.asarray(gradient), learning_rates, n_steps)
            return
        assert isinstance(gradient, th.Tensor)
        for part, learning_rate in zip(self.layout.parts, learning_rates, strict=False):
            statistics = [statistic[part] for statistic in self.statistics.values()]
            self._update(self.vector[part], gradient[part], statistics, learning_rate, n_steps)

    def _step_compiled(self, gradient: np.ndarray, learning_rates: Sequence[float], n_steps: int) -> None:
        if not self._arrays:  # in this process; a slice of a tensor takes longer than some updates
            vectors = (self.vector, *self.statistics.values())
            self._arrays = [[vector[part].numpy() for vector in vectors] for part in self.layout.parts]
        for part, arrays, learning_rate in zip(self.layout.parts, self._arrays, learning_rates, strict=False):
            self._update_compiled(arrays[0], gradient[part], *arrays[1:], learning_rate, n_steps)

    @abstractmethod
    def _update(
        self, params: th.Tensor, grad: th.Tensor, statistics: list[th.Tensor], learning_rate: float, n_steps: int
    ) -> None:
        """Step ``params`` in place; all vectors are of shape ``(n,)``."""

    @abstractmethod
    def _update_compiled(self, *arguments: Any) -> None:
        """The same by one call of a kernel: parameters, gradient, statistics, learning rate, steps."""

    def load(self, policy: ActorCriticPolicy) -> None:
        """
        Read the statistics off the optimizer of a policy.

        :param policy: The policy that was laid out, or a clone of it
        """
        states = [policy.optimizer.state.get(param, {}) for param in self.layout.parameters(policy)]
        self.n_steps = int(states[0]["step"]) if states[0] else 0
        for name, initial in self.initial.items():
            if states[0]:
                self.layout.flatten([state[name] for state in states], out=self.statistics[name])
            else:
                self.statistics[name].fill_(initial)

    def save(self, policy: ActorCriticPolicy) -> None:
        """
        Write the statistics into the optimizer of a policy, as if it had stepped itself.

        :param policy: The policy that was laid out
        """
        if self.n_steps == 0:
            return
        views = {name: self.layout.views(vector) for name, vector in self.statistics.items()}
        for index, param in enumerate(self.layout.parameters(policy)):
            policy.optimizer.state[param] = {
                "step": self.step_entry(self.n_steps),
                **{name: views[name][index].clone() for name in self.initial},
            }

    def share_memory(self) -> None:
        """Move the statistics to memory that other processes see too."""
        for statistic in self.statistics.values():
            statistic.share_memory_()
        self._arrays = []  # they are of the memory that there was

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_arrays": []}

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
        known = cls.free_options | {"params", "lr", "initial_lr"}
        if any(value for name, value in optimizer.param_groups[0].items() if name not in known):
            return False
        states = [optimizer.state.get(param, {}) for param in params]
        steps = {float(state["step"]) if state else 0.0 for state in states}
        return len(steps) == 1 and all(not state or set(state) == {"step", *cls.initial} for state in states)


class RMSprop(FlatOptimizer):
    """``v <- alpha v + (1 - alpha) g^2; x <- x - lr g / (sqrt(v) + eps)`` (:class:`torch.optim.RMSprop`)."""

    torch_class = th.optim.RMSprop
    free_options = frozenset({"alpha", "eps"})
    initial = {"square_avg": 0.0}

    def _update(
        self, params: th.Tensor, grad: th.Tensor, statistics: list[th.Tensor], learning_rate: float, n_steps: int
    ) -> None:
        (square_avg,) = statistics
        alpha = self.options["alpha"]
        square_avg.mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
        params.addcdiv_(grad, square_avg.sqrt().add_(self.options["eps"]), value=-learning_rate)

    def _update_compiled(
        self, params: np.ndarray, grad: np.ndarray, square_avg: np.ndarray, learning_rate: float, n_steps: int
    ) -> None:
        kernels.rmsprop_step(params, grad, square_avg, learning_rate, self.options["alpha"], self.options["eps"])


class RMSpropTensorFlow(FlatOptimizer):
    """``v <- alpha v + (1 - alpha) g^2; x <- x - lr g / sqrt(v + eps)``, v from 1 (SB3's ``RMSpropTFLike``)."""

    torch_class = RMSpropTFLike
    free_options = frozenset({"alpha", "eps"})
    initial = {"square_avg": 1.0}

    def _update(
        self, params: th.Tensor, grad: th.Tensor, statistics: list[th.Tensor], learning_rate: float, n_steps: int
    ) -> None:
        (square_avg,) = statistics
        alpha = self.options["alpha"]
        square_avg.mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
        params.addcdiv_(grad, square_avg.add(self.options["eps"]).sqrt_(), value=-learning_rate)

    def _update_compiled(
        self, params: np.ndarray, grad: np.ndarray, square_avg: np.ndarray, learning_rate: float, n_steps: int
    ) -> None:
        kernels.rmsprop_tf_step(params, grad, square_avg, learning_rate, self.options["alpha"], self.options["eps"])

    def step_entry(self, n_steps: int) -> int:
        """As :meth:`FlatOptimizer.step_entry`; here it is a number."""
        return n_steps


class Adam(FlatOptimizer):
    """``m, v``: bias-corrected averages of ``g, g^2``; ``x <- x - lr m / (sqrt(v) + eps)`` (:class:`torch.optim.Adam`)."""

    torch_class = th.optim.Adam
    free_options = frozenset({"betas", "eps"})
    initial = {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _update(
        self, params: th.Tensor, grad: th.Tensor, statistics: list[th.Tensor], learning_rate: float, n_steps: int
    ) -> None:
        exp_avg, exp_avg_sq = statistics
        beta1, beta2 = self.options["betas"]
        exp_avg.lerp_(grad, 1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        bias_correction1, bias_correction2 = 1 - beta1**n_steps, 1 - beta2**n_steps
        denominator = (exp_avg_sq.sqrt() / bias_correction2**0.5).add_(self.options["eps"])
        params.addcdiv_(exp_avg, denominator, value=-(learning_rate / bias_correction1))

    def _update_compiled(
        self,
        params: np.ndarray,
        grad: np.ndarray,
        exp_avg: np.ndarray,
        exp_avg_sq: np.ndarray,
        learning_rate: float,
        n_steps: int,
    ) -> None:
        beta1, beta2 = self.options["betas"]
        kernels.adam_step(params, grad, exp_avg, exp_avg_sq, learning_rate, beta1, beta2, self.options["eps"], n_steps)


class TorchOptimizer:
    """
    Any other optimizer, stepped as it is: slower, a call a parameter. Not to be stepped by two workers at once.

    :param policy: The policy whose optimizer this is
    :param vector: The vector that it steps
    :param layout: What lies where in the vector
    """

    def __init__(self, policy: ActorCriticPolicy, vector: th.Tensor, layout: Layout) -> None:
        self.layout = layout
        self.policy = clone_policy(policy)
        self.n_steps = 0
        layout.bind(self.policy, vector)

    def step(self, gradient: Vector, learning_rates: Sequence[float], n_steps: int) -> None:
        """As :meth:`FlatOptimizer.step`; parameters of another part have no gradient meanwhile, so they stay."""
        assert isinstance(gradient, th.Tensor)
        params, views = self.layout.parameters(self.policy), self.layout.views(gradient)
        for part, learning_rate in zip(self.layout.parts, learning_rates, strict=False):
            for param, where, view in zip(params, self.layout.slices, views, strict=True):
                param.grad = view if part.start <= where.start < part.stop else None
            update_learning_rate(self.policy.optimizer, learning_rate)
            self.policy.optimizer.step()

    def load(self, policy: ActorCriticPolicy) -> None:
        """As :meth:`FlatOptimizer.load`."""
        self.policy.optimizer.load_state_dict(deepcopy(policy.optimizer.state_dict()))  # it would keep our tensors

    def save(self, policy: ActorCriticPolicy) -> None:
        """As :meth:`FlatOptimizer.save`."""
        policy.optimizer.load_state_dict(deepcopy(self.policy.optimizer.state_dict()))


def make_optimizer(
    policy: ActorCriticPolicy, vector: th.Tensor, layout: Layout, compiled: bool = False
) -> FlatOptimizer | TorchOptimizer:
    """
    :param policy: The policy whose optimizer is to step the vector
    :param vector: The vector, of shape ``(size,)``
    :param layout: What lies where in the vector
    :param compiled: Whether compiled code is to step it, where there is some
    :return: An optimizer that does what the policy's own does, with its statistics
    """
    for flat_class in (RMSprop, RMSpropTensorFlow, Adam):
        if flat_class.fits(policy.optimizer, layout.parameters(policy)):
            options = {name: value for name, value in policy.optimizer.param_groups[0].items() if name != "params"}
            optimizer = flat_class(options, vector, layout, compiled)
            optimizer.load(policy)
            return optimizer
    return TorchOptimizer(policy, vector, layout)
