"""
Figures over seeds: interquartile means with 95 % bootstrap intervals, and when a threshold was reached.

As in rliable (Agarwal et al. 2021, arXiv 2108.13264): seeds are drawn with replacement, and the 2.5th and 97.5th percentiles
of the draws' interquartile means are the interval. rliable's strata would be environments, of which there is one here. With
fewer than five seeds there is no interval, because resampling so few values says nothing about the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np

from sb3_a3c.comparison.run import RunResult

Axis = Literal["timesteps", "seconds"]
AXES: tuple[Axis, ...] = ("timesteps", "seconds")
#: The least number of seeds that have an interval. Chosen arbitrarily, as in most papers.
MIN_SEEDS = 5

#: Draws of seeds for one figure, and for each point of a curve, as rliable's authors use them.
_N_RESAMPLES, _N_CURVE_RESAMPLES = 50_000, 2_000
#: Points of a curve. Chosen arbitrarily: more than there are evaluations.
_N_POINTS = 201


@dataclass(frozen=True)
class Estimate:
    """
    An estimate of one quantity, or of one per point of a curve.

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
class Summary:
    """
    The figures of one algorithm over all its runs.

    :param algorithm: Its name
    :param results: Its runs
    :param final_return: The return of the policies at the end
    :param steps_per_second: Steps per second of training
    :param seconds: Seconds of training
    :param threshold: A return to reach, or None
    :param steps_to_threshold: Steps of each seed to the threshold, ``inf`` if it was never reached; empty without a threshold
    :param seconds_to_threshold: The same in seconds
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
    """Summarize the runs of an algorithm, of which there must be at least one."""
    reached = [] if threshold is None else [_reached(result, threshold) for result in results]
    return Summary(
        algorithm,
        results,
        final_return=estimate(np.array([result.last.mean_return for result in results])),
        steps_per_second=estimate(np.array([result.steps_per_second for result in results])),
        seconds=estimate(np.array([result.last.seconds for result in results])),
        threshold=threshold,
        steps_to_threshold=[steps for steps, _ in reached],
        seconds_to_threshold=[seconds for _, seconds in reached],
    )


def points(result: RunResult, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    """Return steps or seconds of a run's evaluations, and their mean returns."""
    at = [getattr(evaluation, axis) for evaluation in result.evaluations]
    return np.array(at), np.array([evaluation.mean_return for evaluation in result.evaluations])


def learning_curve(results: Sequence[RunResult], axis: Axis) -> tuple[np.ndarray, Estimate]:
    """Return steps or seconds from 0 to where the first run ends, and the return there."""
    at = np.linspace(0.0, min(getattr(result.last, axis) for result in results), _N_POINTS)
    return at, return_at(results, axis, at, _N_CURVE_RESAMPLES)


def return_at(results: Sequence[RunResult], axis: Axis, at: float | np.ndarray, n_resamples: int = _N_RESAMPLES) -> Estimate:
    """Estimate the return at steps or seconds, on straight lines between evaluations. After a run's end it stays the same."""
    return estimate(np.array([np.interp(at, *points(result, axis)) for result in results]), n_resamples)


def estimate(values: np.ndarray, n_resamples: int = _N_RESAMPLES) -> Estimate:
    """Estimate the interquartile mean of one value per seed, ``(n_seeds, ...)``, from ``n_resamples`` draws of seeds."""
    from scipy.stats import bootstrap, trim_mean  # part of the extra, and slow to import

    iqm = trim_mean(values, 0.25)
    if len(values) < MIN_SEEDS:
        return Estimate(values, iqm, np.full_like(iqm, np.nan), np.full_like(iqm, np.nan))
    drawn = bootstrap(
        (values,),
        lambda resampled, axis: trim_mean(resampled, 0.25, axis=axis),
        n_resamples=n_resamples,
        method="percentile",
        rng=np.random.default_rng(0),  # so that a report made again is the same
    )
    return Estimate(values, iqm, np.asarray(drawn.confidence_interval.low), np.asarray(drawn.confidence_interval.high))


def _reached(result: RunResult, threshold: float) -> tuple[float, float]:
    """Steps and seconds to the first evaluation whose mean return is at least the threshold."""
    reached = ((at.timesteps, at.seconds) for at in result.evaluations if at.mean_return >= threshold)
    return next(reached, (inf, inf))
