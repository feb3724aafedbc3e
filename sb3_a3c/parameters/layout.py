"""Where each of a policy's parameters lies in one flat vector."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

#: Each parameter starts at a multiple of so many elements (64 bytes of float32), where torch would have put a tensor of
#: its own: the last bits of a matrix product depend on it.
_ALIGNMENT = 16


#: Parameters, or their gradient, of shape ``(size,)``; an array where compiled code is all that computes with it.
Vector = th.Tensor | np.ndarray


class Layout:
    """
    The order of a policy's parameters in a flat vector: the actor's, with all that it shares with the critic, and then,
    where the critic has its own learning rate, the critic's. Between them are zeros, which stay zeros. Frozen parameters
    are in it too, because a callback may change or unfreeze them.

    :param policy: The policy whose parameters are laid out
    :param separate_critic: Whether the critic's own parameters are a part of their own
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
        # A frozen parameter of another type can't be in the vector. It is left as it is.
        params = {name: param for name, param in policy.named_parameters() if _kind(param) in kinds}
        actor_names = [name for name, param in params.items() if id(param) not in critic]
        critic_names = [name for name, param in params.items() if id(param) in critic]
        self.names = actor_names + critic_names
        self.shapes = [params[name].shape for name in self.names]
        self.slices: list[slice] = []
        self._pads: list[th.Tensor] = []
        start = 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            self.slices.append(slice(start, start + shape.numel()))
            pad = -shape.numel() % _ALIGNMENT
            self._pads.append(params[name].new_zeros(pad, requires_grad=False))
            start += shape.numel() + pad
        self.size = start
        actor_size = self.slices[len(actor_names)].start if critic_names else self.size
        #: The parts of the vector with a learning rate each: the actor's and, if it is separate, the critic's.
        self.parts = [slice(0, actor_size), slice(actor_size, self.size)] if separate_critic else [slice(0, self.size)]

    def parameters(self, policy: ActorCriticPolicy) -> list[nn.Parameter]:
        """
        :param policy: The policy that was laid out, or a clone of it
        :return: Its parameters in the order of the vector
        """
        by_name = dict(policy.named_parameters())
        return [by_name[name] for name in self.names]

    def slice_of(self, name: str) -> slice | None:
        """
        :param name: A parameter's name
        :return: Where in the vector it is. None if it is not in the vector
        """
        return self.slices[self.names.index(name)] if name in self.names else None

    def segments(self, keys: Sequence[Any]) -> Iterator[tuple[slice, int, Any]]:
        """
        Divide the vector into runs of neighbouring parameters that are treated alike.

        :param keys: One key per parameter
        :return: For each run: where it is, which of ``parts`` it is in, and the key of its parameters
        """
        part_of = [int(len(self.parts) > 1 and where.start >= self.parts[0].stop) for where in self.slices]
        start = 0
        for index, both in enumerate(zip(part_of, keys, strict=True)):
            is_last = index + 1 == len(keys)
            if is_last or (part_of[index + 1], keys[index + 1]) != both:
                stop = self.size if is_last else self.slices[index + 1].start
                yield slice(start, stop), *both
                start = stop

    def gather(self, policy: ActorCriticPolicy, out: th.Tensor | None = None) -> th.Tensor:
        """
        :param policy: The policy that was laid out, or a clone of it
        :param out: Where to, of shape ``(size,)``; None: a new vector
        :return: The vector with its parameters
        """
        return self.flatten([param.detach() for param in self.parameters(policy)], out)

    def scatter(self, vector: th.Tensor, policy: ActorCriticPolicy) -> None:
        """
        The other way of :meth:`gather`.

        :param vector: The vector, of shape ``(size,)``
        :param policy: The policy that was laid out, or a clone of it, whose parameters are written
        """
        for param, view in zip(self.parameters(policy), self.views(vector), strict=True):
            param.detach().copy_(view)

    def flatten(self, tensors: Sequence[th.Tensor], out: th.Tensor | None = None) -> th.Tensor:
        """
        :param tensors: A tensor for each parameter, of that parameter's shape
        :param out: Where to, of shape ``(size,)``; None: a new vector
        :return: The vector with the tensors in it, and zeros between them
        """
        pieces = [piece for tensor, pad in zip(tensors, self._pads, strict=True) for piece in (tensor.reshape(-1), pad)]
        return th.cat(pieces, out=out)  # type: ignore[arg-type]

    def views(self, vector: th.Tensor) -> list[th.Tensor]:
        """
        :param vector: A vector of this layout, of shape ``(size,)``
        :return: A view of it for each parameter, of that parameter's shape
        """
        return [vector[part].view(shape) for part, shape in zip(self.slices, self.shapes, strict=True)]

    def bind(self, policy: ActorCriticPolicy, vector: th.Tensor) -> None:
        """
        Let a policy's parameters be views of a vector, so that writing the vector changes the policy.

        :param policy: A clone of the policy that was laid out
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
