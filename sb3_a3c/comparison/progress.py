"""What a user sees while runs are at work: how many are over, what the present ones do, and how long it will take."""

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

from tqdm import tqdm

from sb3_a3c.comparison.run import RunResult, RunSpec, Stage

#: How much of a run's time each stage has before it, and takes. Out of the air; only the first run of an algorithm needs it.
_STAGES = {"starts": (0.0, 0.0), "learns": (0.0, 0.8), "is evaluated": (0.8, 0.2)}
#: How much of a run must be done to tell how long the rest takes. Out of the air.
_TELLING = 0.05
#: Seconds between two lines where standard error is no terminal, so that a log stays short.
_LOG_INTERVAL = 30.0


@dataclass(frozen=True)
class _Shown:
    begun: float
    done: float
    text: str


class Progress:
    """
    :param specs: All runs of the comparison
    :param jobs: Runs made at once
    :param visible: Whether anything is shown
    """

    def __init__(self, specs: Sequence[RunSpec], jobs: int, visible: bool) -> None:
        self._jobs = jobs
        self._to_come = [_key(spec) for spec in specs]
        self._n_runs = len(specs)
        self._at_work: dict[tuple[str, int], _Shown] = {}
        self._seconds: dict[str, list[float]] = defaultdict(list)
        interval = 0.1 if sys.stderr.isatty() else _LOG_INTERVAL
        bar_format = "{percentage:3.0f}% |{bar:20}| {desc}"
        self._bar = tqdm(total=self._n_runs, bar_format=bar_format, mininterval=interval, disable=not visible)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def at(self, spec: RunSpec, stage: Stage) -> None:
        """
        :param spec: Of a run that is at work
        :param stage: How far it is
        """
        key = _key(spec)
        if key in self._to_come:
            self._to_come.remove(key)
            self._at_work[key] = _Shown(time.perf_counter(), 0.0, "")
        before, share = _STAGES[stage.name]
        text = f"{spec.algorithm} seed {spec.seed} {stage.name}" + (f" ({stage.fraction:.0%})" if share else "")
        self._at_work[key] = replace(self._at_work[key], done=before + share * stage.fraction, text=text)
        self._show()

    def over(self, spec: RunSpec, result: RunResult | None) -> None:
        """
        :param spec: Of a run that is over, be it since an earlier time
        :param result: Its result, None: it failed
        """
        key = _key(spec)
        self._at_work.pop(key, None)
        if key in self._to_come:
            self._to_come.remove(key)
        if result is not None:
            self._seconds[spec.algorithm].append(result.wall_seconds)
        self._show()

    def seconds_left(self) -> float | None:
        """
        :return: How long the rest will take, None: nothing is known yet, or all runs are over
        """
        now = time.perf_counter()
        known = {name: mean(seconds) for name, seconds in self._seconds.items()}
        for (name, _), shown in self._at_work.items():
            if shown.done > _TELLING:
                known.setdefault(name, (now - shown.begun) / shown.done)
        if not known or not (self._to_come or self._at_work):
            return None
        unknown = mean(known.values())
        to_come = sum(known.get(name, unknown) for name, _ in self._to_come)
        at_work = sum(max(known.get(name, unknown) - now + shown.begun, 0.0) for (name, _), shown in self._at_work.items())
        return (to_come + at_work) / self._jobs

    def _show(self) -> None:
        n_over = self._n_runs - len(self._to_come) - len(self._at_work)
        left = self.seconds_left()
        parts = [f"{n_over} of {self._n_runs} runs", *(shown.text for shown in self._at_work.values())]
        self._bar.set_description_str("; ".join(parts + ([] if left is None else [f"{_duration(left)} left"])), refresh=False)
        self._bar.update(n_over + sum(shown.done for shown in self._at_work.values()) - self._bar.n)


def _key(spec: RunSpec) -> tuple[str, int]:
    return spec.algorithm, spec.seed


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
