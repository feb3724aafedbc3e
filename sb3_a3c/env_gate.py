"""
The gate between callbacks and the environments that workers are stepping.

While workers step slices of a VecEnv, calls on the VecEnv itself (``env_method``, ``get_attr``, ``set_attr``, rendering)
wait until no step is under way and keep the workers from beginning one: an environment is never entered by two threads,
and the answers in a SubprocVecEnv's pipes reach who asked. Stepping or resetting it there is refused.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

_WAITING = ("env_method", "get_attr", "set_attr", "has_attr", "env_is_wrapped", "get_images", "render")
_REFUSED = ("reset", "step_async", "step_wait")
_CLAIMED = "_a3c_is_learning"


@contextmanager
def claim(venv: VecEnv | None) -> Iterator[None]:
    """
    Keep a VecEnv to one ``learn()`` at a time.

    :param venv: The VecEnv; whatever wraps the same environments is the same
    :raises ValueError: if another ``learn()`` has it, in this thread or in another
    """
    if venv is None:  # which SB3 has its own words for
        yield
        return
    attributes, token = vars(venv.unwrapped), object()
    if attributes.setdefault(_CLAIMED, token) is not token:
        raise ValueError(
            f"env must not be one that another learn() is using, but this {type(venv.unwrapped).__name__} is: a learn() "
            "within learn(), or beside it in another thread, needs environments of its own"
        )
    try:
        yield
    finally:
        del attributes[_CLAIMED]


@contextmanager
def gate(venv: VecEnv, reach: Callable[[Callable], Callable]) -> Iterator[None]:
    """
    Keep calls on a VecEnv apart from the steps of its slices.

    :param venv: The VecEnv that was sliced, which its slices do not call
    :param reach: Makes of a method of the VecEnv one that waits, and does it where the environments live
    """
    base = venv.unwrapped
    for name in _WAITING:
        setattr(base, name, reach(getattr(base, name)))
    for name in _REFUSED:
        setattr(base, name, _refuse(name))
    try:
        yield
    finally:
        for name in _WAITING + _REFUSED:
            delattr(base, name)  # the class's own method shows again


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
