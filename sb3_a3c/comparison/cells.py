"""How the figures of a comparison are written in the cells of a table."""

from collections.abc import Sequence
from math import isfinite, isnan
from statistics import median

from sb3_a3c.comparison.estimates import Estimate


def of_seeds(estimate: Estimate) -> str:
    """
    :param estimate: Of one quantity
    :return: Its interquartile mean with its interval in brackets; with too few seeds for an interval, the value of each run
    """
    if isnan(float(estimate.low)):
        return "; ".join(number(float(value)) for value in estimate.values)
    return f"{number(float(estimate.iqm))} [{number(float(estimate.low))}, {number(float(estimate.high))}]"


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
