"""
Access of callbacks to environments that workers are stepping.

While workers step slices of a VecEnv, calls of the VecEnv itself (``env_method``, ``get_attr``, ``set_attr``, rendering) wait
for the present steps to end, and no step begins until they return. So no environment is used by two threads at once, and each
answer in a SubprocVecEnv's pipes reaches the caller that asked for it. Stepping or resetting the VecEnv raises an error.
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
    A context manager that lets only one ``learn()`` at a time use a VecEnv.

    :param venv: The VecEnv. All wrappers of the same VecEnv count as one
    """

    def __init__(self, venv: VecEnv | None) -> None:
        self._base = None if venv is None else venv.unwrapped  # SB3 raises the error for None
        self._token = object()

    def __enter__(self) -> None:
        """
        :raises ValueError: if another ``learn()`` is using the VecEnv, in any thread
        """
        if self._base is not None and vars(self._base).setdefault(_CLAIMED, self._token) is not self._token:
            raise ValueError(
                f"env must not be one that another learn() is using, but this {type(self._base).__name__} is: a learn() "
                "that is called within learn(), or in another thread at the same time, needs other environments"
            )

    def __exit__(self, *exc_info: object) -> None:
        if self._base is not None and vars(self._base).get(_CLAIMED) is self._token:
            del vars(self._base)[_CLAIMED]


class Gate:
    """
    A context manager within which calls of a VecEnv wait for the steps of its slices.

    :param venv: The VecEnv that was sliced. Its slices do not call it
    :param reach: Takes a method of the VecEnv, and returns one that waits and calls it where the environments are
    """

    def __init__(self, venv: VecEnv, reach: Callable[[Callable], Callable]) -> None:
        self._base = venv.unwrapped
        self._reach = reach
        #: Methods that the user has replaced in this VecEnv. All others are defined in its class.
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
    :param method: A method that uses the environments
    :param env_locks: The locks that are held during their steps. They are re-entrant, because the method may call another
    :return: The method, which first acquires all of the locks
    """

    @wraps(method)
    def waiting(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for env_lock in env_locks:  # no deadlock: a worker holds at most one lock
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
