"""The progress bar of a comparison: how many runs are finished, what the current ones are doing, and the time left."""

import sys
from collections.abc import Sequence

from tqdm import tqdm

from sb3_a3c.comparison.run import RunSpec, Stage

#: The part of a run that is done before each stage, and the part of the stage itself. Chosen arbitrarily.
_STAGES = {"starts": (0.0, 0.0), "learns": (0.0, 0.8), "is evaluated": (0.8, 0.2)}
#: Seconds between two lines if standard error is not a terminal, so that a log stays short.
_LOG_INTERVAL = 30.0


class Progress:
    """Shows nothing unless it is ``visible``."""

    def __init__(self, specs: Sequence[RunSpec], n_finished: int, visible: bool) -> None:
        self._n_finished = n_finished
        self._current: dict[str, Stage] = {}
        self._bar = tqdm(
            total=len(specs),
            initial=n_finished,
            bar_format="{percentage:3.0f}% |{bar:20}| {desc}, {remaining} left",
            mininterval=0.1 if sys.stderr.isatty() else _LOG_INTERVAL,
            smoothing=0.0,  # the time left follows from the mean pace, because runs differ from each other
            disable=not visible,
        )

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def update(self, spec: RunSpec, stage: Stage) -> None:
        """Show the stage of a current run."""
        self._current[spec.name] = stage
        self._show()

    def finish(self, spec: RunSpec) -> None:
        """Show that a run has ended."""
        del self._current[spec.name]
        self._n_finished += 1
        self._show()

    def _show(self) -> None:
        done = float(self._n_finished)
        parts = [f"{self._n_finished} of {self._bar.total} runs"]
        for name, stage in self._current.items():
            before, share = _STAGES[stage.name]
            done += before + share * stage.fraction
            parts.append(f"{name} {stage.name}" + (f" ({stage.fraction:.0%})" if share else ""))
        self._bar.set_description_str("; ".join(parts), refresh=False)
        self._bar.update(done - self._bar.n)
