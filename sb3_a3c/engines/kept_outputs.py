"""
Outputs of a policy's large layers, kept while it acts, so that the gradient of a rollout needs no second forward pass.

The local parameters do not change within a rollout, so ``evaluate_actions()`` computes what ``forward()`` has computed for
each step before. Here, convolutions and large linear layers return their kept outputs, concatenated, and only their backward
pass is computed: once, for the whole rollout. (Keeping the graphs of the forward passes instead would require one backward
pass per step. For four environments, that takes twice as long as the second forward pass saves.)

The first rollout is computed in the plain way and compared. If a layer's output differs (dropout, batch normalization, data
augmentation, a layer that is called in another way), the policy is computed in the plain way from then on.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_a3c.engines.samples import env_major

#: A linear layer with at least this many weights is large. Keeping a smaller output takes as long as computing it.
LARGE = 100_000
#: How much an output may differ, by its largest element. A product rounds differently for another number of rows.
_TOLERANCE = 1e-4


class _Mode(Enum):
    PLAIN = 0
    #: Keep the outputs.
    ACT = 1
    #: Compare the outputs with those kept.
    COMPARE = 2
    #: Return the kept outputs.
    REUSE = 3


class KeptOutputs:
    """
    :param policy: A policy whose parameters do not change within a rollout. Its layers are changed to keep their outputs.
        None: nothing is kept
    """

    def __init__(self, policy: ActorCriticPolicy | None) -> None:
        modules = [] if policy is None else policy.modules()
        self._layers = [_Layer(module) for module in modules if _is_large(module)]
        self._is_compared = False

    def start_rollout(self) -> None:
        """Forget the outputs of the last rollout."""
        for layer in self._layers:
            layer.outputs = []

    def acting(self) -> AbstractContextManager[None]:
        """Within this context the policy acts: it computes the next step of the rollout."""
        return self._in_mode(_Mode.ACT)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """
        Within this context the policy evaluates the actions of all steps of the rollout, in the order of
        :func:`~sb3_a3c.engines.samples.env_major`.
        """
        with self._in_mode(_Mode.REUSE if self._is_compared else _Mode.COMPARE):
            yield
        if not self._is_compared:
            self._is_compared = True
            if not all(layer.is_same for layer in self._layers):
                for layer in self._layers:
                    layer.detach()
                self._layers = []

    @contextmanager
    def _in_mode(self, mode: _Mode) -> Iterator[None]:
        for layer in self._layers:
            layer.mode = mode
        try:
            yield
        finally:
            for layer in self._layers:
                layer.mode = _Mode.PLAIN


class _Layer:
    """
    One layer, which keeps its outputs.

    :param module: The layer. Its ``forward()`` is replaced
    """

    def __init__(self, module: nn.Module) -> None:
        self.mode = _Mode.PLAIN
        self.outputs: list[th.Tensor] = []
        self.is_same = True
        self._module = module
        self._forward = module.forward
        module.forward = self.forward  # type: ignore[method-assign]

    def detach(self) -> None:
        """Let the layer forget all this."""
        self._module.forward = self._forward  # type: ignore[method-assign]

    def forward(self, x: th.Tensor) -> th.Tensor:
        if self.mode is _Mode.REUSE:
            return _Known.apply(x, self._module.weight, self._module.bias, env_major(self.outputs), self._module)
        output = self._forward(x)
        if self.mode is _Mode.ACT:
            self.outputs.append(output)
        elif self.mode is _Mode.COMPARE:
            self.is_same = self.is_same and self._is_kept(output)
        return output

    def _is_kept(self, output: th.Tensor) -> bool:
        """Whether this output, which was computed for the whole rollout, is the one that was kept."""
        weight, kept = self._module.weight, env_major(self.outputs)
        if not (kept.shape == output.shape and kept.dtype == output.dtype == weight.dtype and output.ndim == weight.ndim):
            return False
        return bool((kept - output).abs().max() <= _TOLERANCE * output.abs().max())


class _Known(th.autograd.Function):
    """A convolution or a linear layer whose output is known."""

    @staticmethod
    def forward(
        ctx: Any, x: th.Tensor, weight: th.Tensor, bias: th.Tensor | None, output: th.Tensor, module: nn.Module
    ) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.module = module
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: th.Tensor) -> Any:
        (gradient,) = gradients
        (x, weight), module, needed = ctx.saved_tensors, ctx.module, ctx.needs_input_grad[:3]
        if isinstance(module, nn.Conv2d):
            options = module.stride, module.padding, module.dilation, False, (0, 0), module.groups
            # torch.nn.grad computes the same, but its memory format is another one, in which it takes twice as long.
            computed = th.ops.aten.convolution_backward(gradient, x, weight, weight.shape[:1], *options, needed)
        else:
            computed = (
                gradient @ weight if needed[0] else None,
                gradient.t() @ x if needed[1] else None,
                gradient.sum(0) if needed[2] else None,
            )
        return *computed, None, None


def _is_large(module: nn.Module) -> bool:
    """Whether it is a layer whose backward pass is known here. (Parametrized layers are of other classes.)"""
    if type(module) is nn.Conv2d:
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module) is nn.Linear and module.weight.numel() >= LARGE
