"""What can go wrong with a comparison."""


class BadArgument(ValueError):
    """An argument, or a file that it names, is not what is allowed; nothing has run."""


class RunFailed(RuntimeError):
    """Some runs ended with an error; those that were finished are kept."""


def check(allowed: bool, name: str, value: object, allowed_values: str) -> None:
    """
    :param allowed: Whether it is
    :param name: The argument's name
    :param value: Its value
    :param allowed_values: What would be allowed
    :raises BadArgument: if it is not allowed
    """
    if not allowed:
        raise BadArgument(f"{name} must be {allowed_values}, but it is {value!r}")
