"""How the figures of a comparison are written in the cells of a table."""

from collections.abc import Sequence
from math import isfinite, isnan
from statistics import median

from sb3_a3c.comparison.estimates import Estimate


def with_interval(estimate: Estimate) -> str:
    """
    :param estimate: Of one quantity
    :return: Its interquartile mean, and in brackets its interval where there is one
    """
    iqm, low, high = (float(value) for value in (estimate.iqm, estimate.low, estimate.high))
    return number(iqm) if isnan(low) else f"{number(iqm)} [{number(low)}, {number(high)}]"


def median_and_range(values: Sequence[float]) -> str:
    """
    :param values: When each seed reached something, ``inf`` for never
    :return: The median, and in brackets the least and the greatest
    """
    if not any(map(isfinite, values)):
        return "never"
    return f"{number(median(values))} [{number(min(values))}, {number(max(values))}]"


def number(value: float) -> str:
    """
    :param value: A number, ``inf`` for never
    :return: It, with as many digits as say something
    """
    if not isfinite(value):
        return "never"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"
