"""Clean-up that completes even if it is interrupted."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Self, TypeVar

from sb3_a3c.system.notes import add_note, describe

T = TypeVar("T")


class CleanupStack:
    """
    Like :class:`contextlib.ExitStack`, for clean-up that must complete although an exception (``KeyboardInterrupt``, or what
    another signal handler raises) can come at any instruction of the main thread, those of the clean-up included.

    - A context manager is on the stack before it is entered, so it is exited even if entering it is interrupted.
    - An exit that raises something is called again. An ``Exception`` that it raises twice is its own, and the next exit
      follows; ``KeyboardInterrupt`` and the like are raised after the clean-up.
    - So every ``__exit__`` must be idempotent, and must not depend on a complete ``__enter__``.

    It is entered twice, ``with stack, stack:``. If an exception comes before the first instruction of ``__exit__``, or where
    ``__exit__`` handles another one, the second call completes the clean-up.
    """

    def __init__(self) -> None:
        #: The ``__exit__`` of each context manager.
        self._exits: list[Callable[..., object]] = []
        self._n_failures = 0
        self._errors: list[BaseException] = []

    def enter(self, manager: AbstractContextManager[T]) -> T:
        """
        :param manager: A context manager to enter now, and to exit in the end
        :return: What its ``__enter__`` returns
        """
        self._exits.append(manager.__exit__)
        return manager.__enter__()

    def callback(self, function: Callable[[], object]) -> None:
        """
        :param function: A function to call in the end
        """
        self._exits.append(lambda *exc_info: function())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        while self._exits:
            try:
                while self._exits:
                    reason = error or next(iter(self._errors), None)
                    self._exits[-1](type(reason) if reason else None, reason, None)
                    self._exits.pop()
                    self._n_failures = 0
            except BaseException as raised:
                self._put_off(raised)
        self._raise(error)

    def _put_off(self, raised: BaseException) -> None:
        if not any(raised is error for error in self._errors):
            self._errors.append(raised)
        self._n_failures += isinstance(raised, Exception)
        if self._n_failures == 2:
            self._exits.pop()
            self._n_failures = 0

    def _raise(self, error: BaseException | None) -> None:
        """Raise the first error, or the first that is no ``Exception``, with notes of the others."""
        errors, self._errors = [error, *self._errors] if error else self._errors, []
        first = next((one for one in errors if not isinstance(one, Exception)), next(iter(errors), None))
        try:
            if first is not None:
                for text in {describe(one): None for one in errors if describe(one) != describe(first)}:
                    add_note(first, f"while learn() was ending, this was raised too: {text}")
                if first is not error:
                    raise first
        finally:
            del errors, first, error  # an error that refers to itself, through this frame, would keep the whole run alive
