"""
The gate between callbacks and the environments that workers are stepping.

While workers step slices of a VecEnv, calls on the VecEnv itself (``env_method``, ``get_attr``, ``set_attr``, rendering)
wait until no step is under way and keep the workers from beginning one: an environment is never entered by two threads,
and the answers in a SubprocVecEnv's pipes reach who asked. Stepping or resetting it there is refused.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import wraps
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

_WAITING = ("env_method", "get_attr", "set_attr", "has_attr", "env_is_wrapped", "get_images", "render")
_REFUSED = ("reset", "step_async", "step_wait")
_CLAIMED = "_a3c_is_learning"


class Claim:
    """
    Keeps a VecEnv to one ``learn()`` at a time, while it is entered.

    :param venv: The VecEnv; whatever wraps the same environments is the same
    """

    def __init__(self, venv: VecEnv | None) -> None:
        self._base = None if venv is None else venv.unwrapped  # SB3 has its own words for None
        self._token = object()

    def __enter__(self) -> None:
        """
        :raises ValueError: if another ``learn()`` has the VecEnv, in this thread or in another
        """
        if self._base is not None and vars(self._base).setdefault(_CLAIMED, self._token) is not self._token:
            raise ValueError(
                f"env must not be one that another learn() is using, but this {type(self._base).__name__} is: a learn() "
                "within learn(), or beside it in another thread, needs environments of its own"
            )

    def __exit__(self, *exc_info: object) -> None:
        if self._base is not None and vars(self._base).get(_CLAIMED) is self._token:
            del vars(self._base)[_CLAIMED]


class Gate:
    """
    Keeps calls on a VecEnv apart from the steps of its slices, while it is entered.

    :param venv: The VecEnv that was sliced, which its slices do not call
    :param reach: Makes of a method of the VecEnv one that waits, and does it where the environments live
    """

    def __init__(self, venv: VecEnv, reach: Callable[[Callable], Callable]) -> None:
        self._base = venv.unwrapped
        self._reach = reach
        #: Methods that the user has replaced in this VecEnv. The others are the class's.
        self._own = {name: vars(self._base)[name] for name in _WAITING + _REFUSED if name in vars(self._base)}

    def __enter__(self) -> None:
        for name in _WAITING:
            setattr(self._base, name, self._reach(getattr(self._base, name)))
        for name in _REFUSED:
            setattr(self._base, name, _refuse(name))

    def __exit__(self, *exc_info: object) -> None:
        for name in _WAITING + _REFUSED:
            vars(self._base).pop(name, None)
        vars(self._base).update(self._own)


def between_steps(method: Callable, env_locks: Sequence[AbstractContextManager]) -> Callable:
    """
    :param method: A method that enters the environments
    :param env_locks: The locks that are held during their steps; re-entrant, for one such call may make another
    :return: One that waits for all of the locks before it does
    """

    @wraps(method)
    def waiting(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for env_lock in env_locks:  # a worker holds one lock at most, so no two can wait for each other
                stack.enter_context(env_lock)
            return method(*args, **kwargs)

    return waiting


def _refuse(name: str) -> Callable:
    def refused(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"{name}() was called on a VecEnv whose environments A3C's workers are stepping; "
            "a callback that evaluates needs an environment of its own"
        )

    return refused
