"""
Figures of several seeds: interquartile means with 95 % bootstrap intervals, and when a threshold was reached.

With fewer than five seeds there is no interval: resampling so few values says nothing about the next one. Reports then show
the value of each run.

As in rliable (Agarwal et al. 2021, arXiv 2108.13264): seeds are drawn with replacement, and of the interquartile means of
the draws the 2.5th and 97.5th percentiles are the interval. Strata would be environments, of which there is one here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sb3_a3c.comparison.run import Evaluation, RunResult

Axis = Literal["timesteps", "seconds"]
AXES: tuple[Axis, ...] = ("timesteps", "seconds")

#: Draws of seeds for one figure, and for the points of a curve, as rliable's authors have it.
_N_RESAMPLES, _N_CURVE_RESAMPLES = 50_000, 2_000
#: Points of a curve. Chosen arbitrarily: more than there are evaluations.
_N_POINTS = 201
#: The least number of seeds that have an interval. Chosen arbitrarily, as most papers do.
MIN_SEEDS = 5


@dataclass(frozen=True)
class Estimate:
    """
    Of one quantity, or of one at each point of a curve.

    :param values: The value of each seed: ``(n_seeds, ...)``
    :param iqm: The interquartile mean over seeds
    :param low: The lower end of its 95 % interval; NaN with fewer than five seeds
    :param high: The upper end; NaN with fewer than five seeds
    """

    values: np.ndarray
    iqm: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Curve:
    """
    :param at: Steps, or seconds
    :param estimate: Of the return there
    """

    at: np.ndarray
    estimate: Estimate


@dataclass(frozen=True)
class Summary:
    """
    What came of all runs of an algorithm. Where a seed never reached the threshold its steps and seconds are ``inf``.

    :param algorithm: Its name
    :param results: Its runs
    :param final_return: Of the policies at the end
    :param steps_per_second: Of training
    :param seconds: Of training
    :param threshold: A return to reach, None: none
    :param steps_to_threshold: Of each seed; empty without a threshold
    :param seconds_to_threshold: Of each seed; empty without a threshold
    """

    algorithm: str
    results: Sequence[RunResult]
    final_return: Estimate
    steps_per_second: Estimate
    seconds: Estimate
    threshold: float | None
    steps_to_threshold: list[float]
    seconds_to_threshold: list[float]

    @property
    def n_reached(self) -> int:
        """How many seeds reached the threshold."""
        return int(np.isfinite(self.steps_to_threshold).sum())


def summarize(algorithm: str, results: Sequence[RunResult], threshold: float | None) -> Summary:
    """
    :param algorithm: An algorithm's name
    :param results: Its runs, at least one
    :param threshold: A return to reach, None: none
    :return: The figures
    """
    reached = [] if threshold is None else [_reached(result, threshold) for result in results]
    return Summary(
        algorithm,
        results,
        estimate(np.array([result.evaluations[-1].mean_return for result in results])),
        estimate(np.array([result.steps_per_second for result in results])),
        estimate(np.array([result.evaluations[-1].seconds for result in results])),
        threshold,
        [np.inf if at is None else at.timesteps for at in reached],
        [np.inf if at is None else at.seconds for at in reached],
    )


def learning_curve(results: Sequence[RunResult], axis: Axis) -> Curve:
    """
    :param results: An algorithm's runs
    :param axis: By what
    :return: The return from the beginning to where the first run ends, between evaluations on a straight line
    """
    at = np.linspace(0.0, min(getattr(result.evaluations[-1], axis) for result in results), _N_POINTS)
    return Curve(at, return_at(results, axis, at, _N_CURVE_RESAMPLES))


def return_at(results: Sequence[RunResult], axis: Axis, at: float | np.ndarray, n_resamples: int = _N_RESAMPLES) -> Estimate:
    """
    :param results: An algorithm's runs
    :param axis: By what
    :param at: Where, one number or many
    :param n_resamples: Draws of seeds
    :return: The return there, between evaluations on a straight line; of a run that ended before, its last
    """
    xs = [[getattr(evaluation, axis) for evaluation in result.evaluations] for result in results]
    ys = [[evaluation.mean_return for evaluation in result.evaluations] for result in results]
    return estimate(np.array([np.interp(at, x, y) for x, y in zip(xs, ys, strict=True)]), n_resamples)


def estimate(values: np.ndarray, n_resamples: int = _N_RESAMPLES) -> Estimate:
    """
    :param values: The value of each seed, or a row of values: ``(n_seeds, ...)``
    :param n_resamples: Draws of seeds
    :return: Their interquartile mean, and its interval if there are at least five seeds
    """
    from scipy.stats import bootstrap  # of the extra, and slow to import

    iqm = _iqm(values, axis=0)
    if len(values) < MIN_SEEDS:
        return Estimate(values, iqm, np.full_like(iqm, np.nan), np.full_like(iqm, np.nan))
    rng = np.random.default_rng(0)  # so that a report that is made again is the same
    interval = bootstrap((values,), _iqm, axis=0, n_resamples=n_resamples, method="percentile", rng=rng).confidence_interval
    return Estimate(values, iqm, np.asarray(interval.low), np.asarray(interval.high))


def _iqm(values: np.ndarray, axis: int) -> np.ndarray:
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=axis)


def _reached(result: RunResult, threshold: float) -> Evaluation | None:
    """The first evaluation whose mean return is at least the threshold."""
    return next((evaluation for evaluation in result.evaluations if evaluation.mean_return >= threshold), None)
