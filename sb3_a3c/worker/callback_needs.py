"""What callbacks read of the model and of steps, and when, so that nothing else is assembled for them."""

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

#: A function of a callback and a number of steps of all environments: whether it reads the model within that many steps.
Looks = Callable[[Any, int], bool]


class CallbackNeeds(IntEnum):
    """What a callback reads. Each level includes the one before."""

    #: The number of steps (``num_timesteps``, ``n_calls``), or nothing.
    COUNT = 0
    #: The model, the VecEnv and the logger.
    MODEL = 1
    #: Local variables, which are the steps themselves.
    STEPS = 2


def register_callback(callback_class: type[BaseCallback], looks: Looks = lambda callback, n_steps: True) -> None:
    """
    Declare that a callback does not read steps: its methods may read everything of the model, its VecEnv and its logger, but
    not ``self.locals``. Its ``on_step()`` is called like any other's, and the run is faster.

    :param callback_class: The class itself. A subclass may read more, so it is declared separately
    :param looks: A function that is called before each rollout, with the callback and the number of steps in the rollout. It
        returns whether the callback will read or change the model, VecEnv or logger within the rollout. If not, they need
        not be up to date, ``on_rollout_start()`` and ``on_rollout_end()`` are not called, and the run is even faster.
        Default: always
    :raises TypeError: if ``callback_class`` is not a callback class, or ``looks`` is not a function
    """
    if not (isinstance(callback_class, type) and issubclass(callback_class, BaseCallback)):
        raise TypeError(f"callback_class must be a subclass of BaseCallback, not {callback_class!r}")
    if not callable(looks):
        raise TypeError(f"looks must be a function of a callback and a number of steps, not {looks!r}")
    _DECLARATIONS[callback_class] = _Declaration(CallbackNeeds.MODEL, looks)


def needs_of(callback: BaseCallback, model: BaseAlgorithm | None = None) -> CallbackNeeds:
    """
    :param callback: The callback of a call of ``learn()``
    :param model: The model that learns. It needs steps if it overrides how episodes are counted
    :return: The needs of the callback, of the callbacks inside of it, and of the model
    """
    if model is not None and getattr(model._update_info_buffer, "__func__", None) is not BaseAlgorithm._update_info_buffer:
        return CallbackNeeds.STEPS
    found = [callback]
    for one in found:
        found += [part for part in _inside(one) if not any(part is known for known in found)]
    declarations = map(_declaration_of, found)
    return max(CallbackNeeds.STEPS if declaration is None else declaration.needs for declaration in declarations)


def looks_within(callback: BaseCallback, n_steps: int) -> bool:
    """
    :param callback: A callback that reads the model
    :param n_steps: A number of steps of all environments
    :return: Whether it reads the model within the next ``n_steps``
    """
    declaration = _declaration_of(callback)
    return declaration is None or declaration.looks(callback, n_steps)


class _Declaration(NamedTuple):
    """What a callback itself reads, and when it, or a callback inside of it, reads the model."""

    needs: CallbackNeeds
    looks: Looks


def _never(callback: BaseCallback, n_steps: int) -> bool:
    return False


def _any_inside(callback: BaseCallback, n_steps: int) -> bool:
    return any(looks_within(part, n_steps) for part in _inside(callback))


def _every_n_calls(callback: BaseCallback, n_steps: int) -> bool:
    freq = callback.eval_freq if isinstance(callback, EvalCallback) else callback.save_freq  # type: ignore[attr-defined]
    return freq > 0 and callback.n_calls % freq + n_steps >= freq


def _every_n_timesteps(callback: EveryNTimesteps, n_steps: int) -> bool:
    model = callback.model
    return model.num_timesteps + n_steps * model.n_envs - callback.last_time_trigger >= callback.n_steps


_DECLARATIONS: dict[type[BaseCallback], _Declaration] = {
    CallbackList: _Declaration(CallbackNeeds.COUNT, _any_inside),
    CheckpointCallback: _Declaration(CallbackNeeds.MODEL, _every_n_calls),
    EvalCallback: _Declaration(CallbackNeeds.MODEL, _every_n_calls),
    EveryNTimesteps: _Declaration(CallbackNeeds.COUNT, _every_n_timesteps),
    LogEveryNTimesteps: _Declaration(CallbackNeeds.MODEL, _every_n_timesteps),
    ProgressBarCallback: _Declaration(CallbackNeeds.COUNT, _never),
    # These two read the EvalCallback that calls them.
    StopTrainingOnNoModelImprovement: _Declaration(CallbackNeeds.COUNT, _never),
    StopTrainingOnRewardThreshold: _Declaration(CallbackNeeds.COUNT, _never),
}


def _declaration_of(callback: BaseCallback) -> _Declaration | None:
    if type(callback) is ConvertCallback and callback.callback is None:  # a subclass may read more
        return _Declaration(CallbackNeeds.COUNT, _never)
    return _DECLARATIONS.get(type(callback))


def _inside(callback: BaseCallback) -> Iterator[BaseCallback]:
    """The callbacks in its attributes. LogEveryNTimesteps holds only a callback that logs."""
    for name, value in vars(callback).items():
        if name != "parent" and type(callback) is not LogEveryNTimesteps:
            yield from (part for part in (value if isinstance(value, list) else [value]) if isinstance(part, BaseCallback))
