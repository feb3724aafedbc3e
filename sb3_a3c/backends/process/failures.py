"""An exception's way from one process to another, with its own type where that can be."""

import pickle
import traceback
from dataclasses import dataclass
from typing import Any, Self

import cloudpickle


class WorkerTraceback(Exception):
    """Shown as the cause of an exception that comes from another process: the traceback that it had there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"


@dataclass(frozen=True)
class Failure:
    """
    An exception as a message.

    :param content: The exception, pickled; None if it can't be
    :param text: Its type and what it says
    :param notes: Its notes
    :param trace: Its traceback
    """

    content: bytes | None
    text: str
    notes: list[str]
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """
        :param error: An exception, as caught
        :return: The message
        """
        return cls(
            content=_pickled(error),
            text=traceback.format_exception_only(error)[0].strip(),
            notes=list(getattr(error, "__notes__", [])),
            trace="".join(traceback.format_exception(error)),
        )

    def error(self) -> BaseException:
        """
        :return: The exception: of its own type, or else a RuntimeError that says what it said
        """
        error = None if self.content is None else _unpickled(self.content)
        if error is None:
            error = RuntimeError(self.text)
            for note in self.notes:
                error.add_note(note)
        error.__cause__ = WorkerTraceback(self.trace)
        return error


def _pickled(error: BaseException) -> bytes | None:
    """An exception whose constructor takes other arguments than it passes on is not rebuilt by calling it."""
    for content in (error, (_without_calling, (type(error), error.args, vars(error)))):
        try:
            pickled = cloudpickle.dumps(content)
        except Exception:
            continue
        again = _unpickled(pickled)
        if type(again) is type(error) and _says_the_same(again, error):
            return pickled
    return None


def _unpickled(content: bytes) -> BaseException | None:
    try:
        loaded = pickle.loads(content)
        return loaded if isinstance(loaded, BaseException) else loaded[0](*loaded[1])
    except Exception:
        return None


def _without_calling(error_class: type[BaseException], args: tuple, state: dict[str, Any]) -> BaseException:
    error = error_class.__new__(error_class, *args)
    error.__dict__.update(state)
    return error


def _says_the_same(one: BaseException, other: BaseException) -> bool:
    try:
        return str(one) == str(other)
    except Exception:
        return False
