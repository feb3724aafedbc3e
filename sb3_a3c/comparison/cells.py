"""How figures are written in the cells of a table."""

from collections.abc import Sequence
from math import isfinite, isnan
from statistics import median

from sb3_a3c.comparison.estimates import Estimate


def of_seeds(estimate: Estimate) -> str:
    """Write the interquartile mean with its interval in brackets, or each seed's value if there are few seeds."""
    if isnan(float(estimate.low)):
        return "; ".join(number(float(value)) for value in estimate.values)
    return f"{number(float(estimate.iqm))} [{number(float(estimate.low))}, {number(float(estimate.high))}]"


def median_and_range(values: Sequence[float]) -> str:
    """Write the median, and in brackets the smallest and the largest. ``inf`` stands for never."""
    if not any(map(isfinite, values)):
        return "never"
    return f"{number(median(values))} [{number(min(values))}, {number(max(values))}]"


def number(value: float) -> str:
    """Write a number with a sensible number of digits, and ``inf`` as "never"."""
    if not isfinite(value):
        return "never"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"
