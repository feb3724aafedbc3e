"""Errors that tell which optional packages are missing, and how to install them."""

from importlib.util import find_spec


class MissingExtra(ModuleNotFoundError):
    """Packages of an extra are not installed."""


def require(extra: str, what: str, *modules: str) -> None:
    """
    Check that optional packages are installed, without importing them.

    :param extra: The extra that installs them, see ``setup.cfg``
    :param what: The feature that needs them. The message begins with it
    :param modules: The names under which they are imported
    :raises MissingExtra: if some are not installed
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        how = f"In a clone of sb3_a3c: pip install '.[{extra}]'"
        raise MissingExtra(f"{what} needs the extra '{extra}' (missing: {', '.join(missing)}). {how}")
