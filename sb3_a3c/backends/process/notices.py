"""Warnings that workers elsewhere send to the user."""

import warnings


class Notices:
    """Each text is shown once in a run, because all workers may send the same."""

    def __init__(self) -> None:
        #: The texts, and whether the user has seen them.
        self._texts: dict[str, bool] = {}

    def add(self, text: str) -> None:
        """
        :param text: A warning for the user
        """
        self._texts.setdefault(text, False)

    def show(self) -> None:
        """Show those that have not been shown. A warning may be raised as an error; the others are shown the next time."""
        for text, shown in list(self._texts.items()):
            self._texts[text] = True
            if not shown:
                warnings.warn(text, stacklevel=2)
