"""The errors of a comparison."""


class BadArgument(ValueError):
    """An argument, or a file that it names, is not allowed. Nothing has run."""


class RunFailed(RuntimeError):
    """Some runs ended with an error. Finished runs are kept."""


def check(allowed: bool, name: str, value: object, allowed_values: str) -> None:
    """Raise :class:`BadArgument`, which names an argument, its value and the allowed values, unless it is allowed."""
    if not allowed:
        raise BadArgument(f"{name} must be {allowed_values}, but it is {value!r}")
