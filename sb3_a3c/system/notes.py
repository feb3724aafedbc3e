"""Notes of exceptions."""


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
            first.add_note(f"{prefix}{error!r}")
    if reason is None and first is not None:
        try:
            raise first
        finally:
            errors.clear()  # an exception refers to the frames it came through, and would keep all they have
            del first, error
