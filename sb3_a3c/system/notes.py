"""Notes of exceptions of any class: one may be frozen, as a dataclass can be, or have a ``__repr__`` that raises."""

from contextlib import suppress


def add_note(error: BaseException, note: str) -> None:
    """
    Like ``error.add_note(note)``. If that is not possible, the exception stays as it is.

    :param error: An exception
    :param note: The note
    """
    with suppress(Exception):
        if not hasattr(error, "__notes__"):
            BaseException.__setattr__(error, "__notes__", [])  # a frozen dataclass refuses it otherwise
        BaseException.add_note(error, note)


def describe(error: BaseException) -> str:
    """
    :param error: An exception
    :return: Like ``repr(error)``
    """
    try:
        return repr(error)
    except Exception:
        return f"{type(error).__name__}(...), whose __repr__ raises an exception"


def raise_first(errors: list[BaseException], reason: BaseException | None, prefix: str) -> None:
    """
    Raise the first of some exceptions, with a note of each other one.

    :param errors: The exceptions. The list is emptied
    :param reason: The exception that is being raised already. It gets the notes, and nothing is raised here
    :param prefix: What a note says before the exception
    """
    first = reason
    for error in errors:
        if first is None:
            first = error
        elif error is not first:
            add_note(first, f"{prefix}{describe(error)}")
    if reason is None and first is not None:
        try:
            raise first
        finally:
            errors.clear()  # an exception refers to the frames it came through, and would keep all they have
            del first, error
