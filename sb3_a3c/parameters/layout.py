"""The position of each of a policy's parameters in one flat vector."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

#: Each parameter starts at a multiple of this many elements (64 bytes of float32), as a separate tensor would: the last
#: bits of a matrix product depend on it.
_ALIGNMENT = 16

#: Parameters, or their gradient, of shape ``(size,)``. An array if only compiled code computes with it.
Vector = th.Tensor | np.ndarray


class Layout:
    """
    The order of a policy's parameters in a flat vector. The actor's come first, with everything that it shares with the
    critic. If the critic has its own learning rate, its parameters come last. The gaps between parameters are zeros, which
    stay zeros. Frozen parameters are in the vector too, because a callback may change or unfreeze them.

    :param policy: The policy whose parameters are laid out
    :param separate_critic: Whether the critic's parameters have a separate learning rate
    :raises ValueError: if the parameters differ in type or device, or the critic has none of its own
    """

    def __init__(self, policy: ActorCriticPolicy, separate_critic: bool = False) -> None:
        trainable = {name: param for name, param in policy.named_parameters() if param.requires_grad}
        if not trainable:
            raise ValueError("the policy has no trainable parameter")
        kinds = {_kind(param) for param in trainable.values()}
        if len(kinds) > 1:
            raise ValueError(f"the policy's parameters must all be of one type on one device, but they are of {kinds}")
        critic = _critic_parameters(policy) if separate_critic else set()
        if separate_critic and not any(id(param) in critic for param in trainable.values()):
            raise ValueError(
                "vf_learning_rate needs a critic with parameters of its own (value_net, mlp_extractor.value_net or "
                f"vf_features_extractor), but {type(policy).__name__} has none"
            )
        # A frozen parameter of another type can't be in the vector. It stays what it is.
        params = {name: param for name, param in policy.named_parameters() if _kind(param) in kinds}
        actor_names = [name for name, param in params.items() if id(param) not in critic]
        critic_names = [name for name, param in params.items() if id(param) in critic]
        self.names = actor_names + critic_names
        self.shapes = [params[name].shape for name in self.names]
        self.slices: list[slice] = []
        self._pads: list[th.Tensor] = []
        self.size = 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            self.slices.append(slice(self.size, self.size + shape.numel()))
            pad = -shape.numel() % _ALIGNMENT
            self._pads.append(params[name].new_zeros(pad, requires_grad=False))
            self.size += shape.numel() + pad
        #: For each parameter, which of the two learning rates it has: 0, or 1 if it is the separate critic's.
        self.rates = [0] * len(actor_names) + [1] * len(critic_names)

    def parameters(self, policy: ActorCriticPolicy) -> list[nn.Parameter]:
        """
        :param policy: The policy that was laid out, or a clone of it
        :return: Its parameters in the order of the vector
        """
        by_name = dict(policy.named_parameters())
        return [by_name[name] for name in self.names]

    def runs(self, keys: Sequence[Any]) -> Iterator[tuple[slice, slice]]:
        """
        Divide the vector into runs of neighbouring parameters with equal keys.

        :param keys: One key per parameter
        :return: For each run: the indices of its parameters, and its position in the vector
        """
        starts = [where.start for where in self.slices] + [self.size]
        first = 0
        for _, run in groupby(keys):
            last = first + len(list(run))
            yield slice(first, last), slice(starts[first], starts[last])
            first = last

    def gather(self, policy: ActorCriticPolicy) -> th.Tensor:
        """
        :param policy: The policy that was laid out, or a clone of it
        :return: A new vector with its parameters, of shape ``(size,)``
        """
        return self.flatten([param.detach() for param in self.parameters(policy)])

    def flatten(self, tensors: Sequence[th.Tensor], out: th.Tensor | None = None) -> th.Tensor:
        """
        :param tensors: One tensor per parameter, of that parameter's shape
        :param out: The vector to write, of shape ``(size,)``. None: a new vector
        :return: The vector with the tensors in it, and zeros between them
        """
        pieces = [piece for tensor, pad in zip(tensors, self._pads, strict=True) for piece in (tensor.reshape(-1), pad)]
        return th.cat(pieces, out=out)  # type: ignore[arg-type]

    def views(self, vector: th.Tensor) -> list[th.Tensor]:
        """
        :param vector: A vector of this layout, of shape ``(size,)``
        :return: One view of it per parameter, of that parameter's shape
        """
        return [vector[part].view(shape) for part, shape in zip(self.slices, self.shapes, strict=True)]

    def bind(self, policy: ActorCriticPolicy, vector: th.Tensor) -> None:
        """
        Make a policy's parameters views of a vector, so that writing the vector changes the policy.

        :param policy: The policy that was laid out, or a clone of it
        :param vector: The vector, of shape ``(size,)``
        """
        for param, view in zip(self.parameters(policy), self.views(vector), strict=True):
            param.data = view


def _kind(param: nn.Parameter) -> tuple[th.dtype, th.device]:
    return param.dtype, param.device


def _critic_parameters(policy: ActorCriticPolicy) -> set[int]:
    modules = [getattr(policy, "value_net", None), getattr(getattr(policy, "mlp_extractor", None), "value_net", None)]
    if not getattr(policy, "share_features_extractor", True):
        modules.append(getattr(policy, "vf_features_extractor", None))
    return {id(param) for module in modules if isinstance(module, nn.Module) for param in module.parameters()}
