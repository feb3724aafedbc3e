"""The check that a step of the optimizer leaves parameters finite."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sb3_a3c.kernels import optimizers as kernels
from sb3_a3c.parameters.flat_optimizer import FlatOptimizer
from sb3_a3c.parameters.optimizers import WholeOptimizer
from sb3_a3c.system.memory import Memory


class NonFiniteError(ArithmeticError, ValueError):
    """
    An observation, a reward, a gradient or a parameter contains NaN or infinity. Such a gradient is never applied. (It is also
    a ValueError, since A2C raises one if its policy meets NaN.)
    """


def check_step(
    vector: Memory, optimizer: FlatOptimizer | WholeOptimizer, learning_rates: Sequence[float], was_applied: bool
) -> None:
    """
    :param vector: The parameters after a step
    :param optimizer: What has stepped them
    :param learning_rates: The actor's and the critic's learning rate
    :param was_applied: Whether other workers may see these parameters, for the message
    :raises NonFiniteError: if one is not finite
    """
    # A sum of finite numbers may overflow, and the gaps between parameters need not be finite.
    if not math.isfinite(kernels.total(vector.array) if optimizer.compiled else vector.tensor.sum()):
        layout = optimizer.layout
        for name, rate, view in zip(layout.names, layout.rates, layout.views(vector.tensor), strict=True):
            values = view.numpy(force=True)
            if not np.isfinite(values).all():
                raise NonFiniteError(
                    f"the optimizer's step has made parameter {name} {values[~np.isfinite(values)][0]}, though the gradient "
                    f"is finite ({optimizer.torch_class.__name__} with learning rate {learning_rates[rate]:g}, "
                    f"{_numbers(optimizer.options[0])}). The step was {'' if was_applied else 'not '}applied"
                )


def _numbers(options: Mapping[str, Any]) -> str:
    """The options that have values: switches are left out."""
    return ", ".join(
        f"{name}={value}"
        for name, value in options.items()
        if name not in ("params", "lr", "initial_lr") and not (value is None or isinstance(value, bool))
    )
