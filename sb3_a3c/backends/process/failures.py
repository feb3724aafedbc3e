"""Exceptions as messages between processes. They keep their type if it can be pickled."""

import pickle
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import cloudpickle

from sb3_a3c.system.notes import add_note


class WorkerTraceback(Exception):
    """The cause of an exception that comes from another process: shows the traceback that it had there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"


@dataclass(frozen=True)
class Failure:
    """
    An exception as a message.

    :param content: The exception, pickled; None if it can't be pickled
    :param text: Its type and its message
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
            notes=_notes(error),
            trace="".join(traceback.format_exception(error)),
        )

    def error(self) -> BaseException:
        """
        :return: The exception: of its own type if it could be pickled, else a RuntimeError with its message
        """
        error: BaseException | None = None
        if self.content is not None:
            with suppress(Exception):  # it can't be unpickled here
                error = _unpickled(self.content)
        if error is None:
            error = RuntimeError(self.text)
            for note in self.notes:
                add_note(error, note)
        BaseException.__setattr__(error, "__cause__", WorkerTraceback(self.trace))  # a frozen dataclass refuses it otherwise
        return error


def _notes(error: BaseException) -> list[str]:
    """Those that are strings: a program may have set others, which may not be picklable."""
    notes = getattr(error, "__notes__", [])
    return [str(note) for note in notes if isinstance(note, str)] if isinstance(notes, list | tuple) else []


def _pickled(error: BaseException) -> bytes | None:
    """An exception whose constructor does not accept ``args`` can't be built again by calling its class."""
    for content in (error, (_without_calling, (type(error), error.args, vars(error)))):
        try:
            pickled = cloudpickle.dumps(content)
            again = _unpickled(pickled)
            if type(again) is type(error) and str(again) == str(error):
                return pickled
        except BaseException:  # each of these steps may call anything
            continue
    return None


def _unpickled(content: bytes) -> BaseException:
    loaded = pickle.loads(content)
    return loaded if isinstance(loaded, BaseException) else loaded[0](*loaded[1])


def _without_calling(error_class: type[BaseException], args: tuple, state: dict[str, Any]) -> BaseException:
    error = error_class.__new__(error_class, *args)
    error.__dict__.update(state)
    return error
