"""What callbacks look at, and when, so that nothing is put together that nobody will see."""

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)

#: Of a callback and a number of steps of all environments: whether it looks at the model within the next so many.
Looks = Callable[[Any, int], bool]


class Attention(IntEnum):
    """What a callback looks at; each degree has in it the one before."""

    #: How many steps have been made (``num_timesteps``, ``n_calls``), or nothing.
    COUNT = 0
    #: The model, the VecEnv as it shows itself, and the logger.
    MODEL = 1
    #: Local variables: the steps themselves.
    STEPS = 2


def register_callback(callback_class: type[BaseCallback], looks: Looks = lambda callback, n_steps: True) -> None:
    """
    Declare that a callback does not look at steps: its methods may read all of the model, its VecEnv and its logger, but not
    ``self.locals``. Its ``on_step()`` is called as any other's, and a run under it is faster.

    :param callback_class: The class itself; a subclass may do more, and is declared on its own
    :param looks: Given such a callback, when a rollout is about to begin, and the number of steps that it has: whether it
        will read the model, VecEnv or logger, or change them, before the rollout has ended. If not, they need not be up to
        date, ``on_rollout_start()`` and ``on_rollout_end()`` are not called, and the run is faster still. Default: always
    :raises TypeError: if it is not a class of callbacks, or ``looks`` no function
    """
    if not (isinstance(callback_class, type) and issubclass(callback_class, BaseCallback)):
        raise TypeError(f"callback_class must be a subclass of BaseCallback, not {callback_class!r}")
    if not callable(looks):
        raise TypeError(f"looks must be a function of a callback and a number of steps, not {looks!r}")
    _DECLARATIONS[callback_class] = _Declaration(Attention.MODEL, looks)


def attention_of(callback: BaseCallback, model: BaseAlgorithm | None = None) -> Attention:
    """
    :param callback: The callback of a call of ``learn()``
    :param model: The model that learns. If it counts episodes in a way of its own, it looks at steps
    :return: What the callback, a callback inside of it, or the model looks at
    """
    if model is not None and getattr(model._update_info_buffer, "__func__", None) is not BaseAlgorithm._update_info_buffer:
        return Attention.STEPS
    found = [callback]
    for one in found:
        found += [part for part in _inside(one) if not any(part is known for known in found)]
    declarations = map(_declaration_of, found)
    return max(Attention.STEPS if declaration is None else declaration.attention for declaration in declarations)


def looks_within(callback: BaseCallback, n_steps: int) -> bool:
    """
    :param callback: A callback that looks at the model
    :param n_steps: Steps of all environments, which are the next
    :return: Whether it does within these
    """
    declaration = _declaration_of(callback)
    return declaration is None or declaration.looks(callback, n_steps)


class _Declaration(NamedTuple):
    """What a callback itself looks at, and when it, or one inside of it, does."""

    attention: Attention
    looks: Looks


def _never(callback: BaseCallback, n_steps: int) -> bool:
    return False


def _any_inside(callback: BaseCallback, n_steps: int) -> bool:
    return any(looks_within(part, n_steps) for part in _inside(callback))


def _each_so_many_calls(callback: BaseCallback, n_steps: int) -> bool:
    freq = callback.eval_freq if isinstance(callback, EvalCallback) else callback.save_freq  # type: ignore[attr-defined]
    return freq > 0 and callback.n_calls % freq + n_steps >= freq


def _each_so_many_timesteps(callback: EveryNTimesteps, n_steps: int) -> bool:
    model = callback.model
    return model.num_timesteps + n_steps * model.n_envs - callback.last_time_trigger >= callback.n_steps


_DECLARATIONS: dict[type[BaseCallback], _Declaration] = {
    CallbackList: _Declaration(Attention.COUNT, _any_inside),
    CheckpointCallback: _Declaration(Attention.MODEL, _each_so_many_calls),
    EvalCallback: _Declaration(Attention.MODEL, _each_so_many_calls),
    EveryNTimesteps: _Declaration(Attention.COUNT, _each_so_many_timesteps),
    LogEveryNTimesteps: _Declaration(Attention.MODEL, _each_so_many_timesteps),
    ProgressBarCallback: _Declaration(Attention.COUNT, _never),
    # These two look at the EvalCallback that calls them.
    StopTrainingOnNoModelImprovement: _Declaration(Attention.COUNT, _never),
    StopTrainingOnRewardThreshold: _Declaration(Attention.COUNT, _never),
}


def _declaration_of(callback: BaseCallback) -> _Declaration | None:
    if type(callback) is ConvertCallback and callback.callback is None:  # a subclass may do more
        return _Declaration(Attention.COUNT, _never)
    return _DECLARATIONS.get(type(callback))


def _inside(callback: BaseCallback) -> Iterator[BaseCallback]:
    """The callbacks in its attributes; LogEveryNTimesteps has a function of its own there, which logs."""
    for name, value in vars(callback).items():
        if name != "parent" and type(callback) is not LogEveryNTimesteps:
            yield from (part for part in (value if isinstance(value, list) else [value]) if isinstance(part, BaseCallback))
