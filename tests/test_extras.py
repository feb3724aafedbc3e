"""Packages of an extra are imported where they are needed, and a missing one is told by the extra's name."""

import sys

import pytest

from sb3_a3c.callbacks import MovingAverageCallback
from sb3_a3c.system.extras import MissingExtra, require


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    require("compare", "A comparison", "json")
    with pytest.raises(MissingExtra) as raised:
        require("compare", "A comparison", "json", "yaml", "no_such_package")
    assert str(raised.value) == (
        "A comparison needs the extra 'compare' (missing: yaml, no_such_package). "
        "In a clone of sb3_a3c: pip install '.[compare]'"
    )


def test_a_callback_that_draws_says_so_before_it_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    MovingAverageCallback()  # without a picture it needs nothing
    with pytest.raises(MissingExtra, match="MovingAverageCallback with a path needs the extra 'extra'"):
        MovingAverageCallback("returns.png")
