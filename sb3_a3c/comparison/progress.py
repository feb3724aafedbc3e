"""
Progress of a comparison: how many runs are finished, what the current ones are doing, and the time left.

The time left is never a guess. It is computed from runs that are finished and from the pace of the current ones. As long as an
algorithm has no finished run, the rest of the comparison takes longer than what is known, and that is what the bar says.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from statistics import mean

from sb3_a3c.comparison.run import RunResult, RunSpec, Stage

#: The part of the bar before each stage of a run, and the stage's own. Chosen arbitrarily.
_STAGES = {"starts": (0.0, 0.0), "learns": (0.0, 0.8), "is evaluated": (0.8, 0.2)}
#: The fraction of a stage that must be done before its pace is used.
_MIN_FRACTION = 0.05
#: Seconds between two lines if standard error is not a terminal, so that a log stays short.
_LOG_INTERVAL = 30.0


@dataclass
class _Current:
    """
    A run that is being made.

    :param stage: Its stage
    :param stage_began: When that stage began
    :param text: What the bar shows
    """

    stage: Stage
    stage_began: float
    text: str = ""


@dataclass(frozen=True)
class TimeLeft:
    """
    :param seconds: Seconds until all runs are finished
    :param is_lower_bound: Whether they don't include everything, because nothing is known yet about some runs
    """

    seconds: float
    is_lower_bound: bool


class Progress:
    """
    :param specs: All runs of the comparison
    :param jobs: Runs made at once
    :param visible: Whether anything is shown
    """

    def __init__(self, specs: Sequence[RunSpec], jobs: int, visible: bool) -> None:
        from tqdm import tqdm  # of the extra: the command's --help must do without it

        self._jobs = jobs
        self._waiting = [_key(spec) for spec in specs]
        self._n_runs = len(specs)
        self._current: dict[tuple[str, int], _Current] = {}
        #: Seconds of each stage: of starting by any algorithm, of the others by the runs of each algorithm.
        self._starting: list[float] = []
        self._learning: dict[str, list[float]] = defaultdict(list)
        self._evaluating: dict[str, list[float]] = defaultdict(list)
        interval = 0.1 if sys.stderr.isatty() else _LOG_INTERVAL
        bar_format = "{percentage:3.0f}% |{bar:20}| {desc}"
        self._bar = tqdm(total=self._n_runs, bar_format=bar_format, mininterval=interval, disable=not visible)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def at(self, spec: RunSpec, stage: Stage) -> None:
        """
        :param spec: A run that is being made
        :param stage: Its stage
        """
        key, now = _key(spec), time.perf_counter()
        if key in self._waiting:
            self._waiting.remove(key)
            self._current[key] = _Current(stage, now)
        current = self._current[key]
        if stage.name != current.stage.name:
            if current.stage.name == "starts":
                self._starting.append(now - current.stage_began)
            current.stage_began = now
        current.stage = stage
        current.text = f"{spec.algorithm} seed {spec.seed} {stage.name}"
        current.text += f" ({stage.fraction:.0%})" if _STAGES[stage.name][1] else ""
        self._show()

    def over(self, spec: RunSpec, result: RunResult | None) -> None:
        """
        :param spec: A run that is over; it may have been made by an earlier command
        :param result: Its result, None: it failed
        """
        key = _key(spec)
        self._current.pop(key, None)
        if key in self._waiting:
            self._waiting.remove(key)
        if result is not None:
            learning = result.evaluations[-1].seconds
            self._learning[spec.algorithm].append(learning)
            self._evaluating[spec.algorithm].append(result.wall_seconds - learning)
        self._show()

    def time_left(self) -> TimeLeft | None:
        """
        :return: The time left, None: all runs are over, or nothing is known yet
        """
        now = time.perf_counter()
        lanes = [self._remaining(algorithm, current, now) for (algorithm, _), current in self._current.items()]
        lanes = (lanes + [0.0] * self._jobs)[: max(self._jobs, len(lanes))]
        heapify(lanes)
        for algorithm, _ in self._waiting:  # each starts when the first of the current runs is over
            heapreplace(lanes, lanes[0] + self._whole(algorithm))
        seconds = max(lanes)
        algorithms = {algorithm for algorithm, _ in [*self._waiting, *self._current]}
        return TimeLeft(seconds, not algorithms <= set(self._learning)) if seconds > 0 else None

    def _remaining(self, algorithm: str, current: _Current, now: float) -> float:
        """Seconds that a current run still takes, as far as they are known."""
        elapsed, stage = now - current.stage_began, current.stage
        at_this_pace = elapsed * (1 - stage.fraction) / stage.fraction if stage.fraction > _MIN_FRACTION else 0.0
        stages = self._stages(algorithm)
        index = list(_STAGES).index(stage.name)
        rest_of_stage = at_this_pace or max(stages[index] - elapsed, 0.0)
        return rest_of_stage + sum(stages[index + 1 :])

    def _whole(self, algorithm: str) -> float:
        """Seconds that a run takes, as far as they are known."""
        return sum(self._stages(algorithm))

    def _stages(self, algorithm: str) -> list[float]:
        return [_mean(self._starting), _mean(self._learning.get(algorithm, [])), _mean(self._evaluating.get(algorithm, []))]

    def _show(self) -> None:
        n_over = self._n_runs - len(self._waiting) - len(self._current)
        left = self.time_left()
        parts = [f"{n_over} of {self._n_runs} runs", *(current.text for current in self._current.values())]
        if left is not None:
            parts.append(f"{'more than ' if left.is_lower_bound else ''}{_duration(left.seconds)} left")
        done: float = n_over
        for current in self._current.values():
            before, share = _STAGES[current.stage.name]
            done += before + share * current.stage.fraction
        self._bar.set_description_str("; ".join(parts), refresh=False)
        self._bar.update(done - self._bar.n)


def _key(spec: RunSpec) -> tuple[str, int]:
    return spec.algorithm, spec.seed


def _mean(seconds: Sequence[float]) -> float:
    return mean(seconds) if seconds else 0.0


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
