"""
The folder of a comparison: one file per finished run.

A run's file is either whole or absent, because it is written under another name and then renamed. Only one comparison at a
time can use the folder. The operating system releases the lock when a program ends, however it ends.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from sb3_a3c.comparison.errors import BadArgument
from sb3_a3c.comparison.provenance import Provenance
from sb3_a3c.comparison.run import Evaluation, RunResult, RunSpec
from sb3_a3c.system.files import atomic_write


class Store:
    """A folder that need not exist yet."""

    def __init__(self, out: Path) -> None:
        self.out = out

    @contextmanager
    def locked(self) -> Iterator[None]:
        """
        Lock the folder.

        :raises BadArgument: if another comparison is using it, or it can't be written to
        """
        lock = FileLock(self.out / "runs" / ".lock", blocking=False)
        try:
            (self.out / "runs").mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise BadArgument(f"out: another comparison is using {str(self.out)!r}; choose another folder") from error
        except OSError as error:
            raise BadArgument(f"out must be a folder that can be written to, but {str(self.out)!r} is not: {error}") from error
        try:
            yield
        finally:
            lock.release()

    def has(self, spec: RunSpec) -> bool:
        """Return whether a run is finished; see :meth:`load` for errors."""
        return self._path(spec).exists() and self.load(spec).spec == spec

    def load(self, spec: RunSpec) -> RunResult:
        """
        :return: The result of a finished run
        :raises BadArgument: if its file belongs to another comparison, or can't be read
        """
        path = self._path(spec)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values["spec"] = RunSpec(**values["spec"])
            values["evaluations"] = [Evaluation(**evaluation) for evaluation in values["evaluations"]]
            values["provenance"] = Provenance(**values["provenance"])
            result = RunResult(**values)
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise BadArgument(
                f"out: {str(path)!r} is not a run of this version: {error!r}; remove it, or choose another folder"
            ) from error
        there, here = asdict(result.spec), asdict(spec)
        different = [f"{name} is {there[name]!r} there and {here[name]!r} here" for name in here if there[name] != here[name]]
        if different:
            raise BadArgument(f"out: {str(path)!r} is of another comparison: {'; '.join(different)}; choose another folder")
        return result

    def save(self, result: RunResult) -> None:
        """Write the result of a finished run."""
        with atomic_write(self._path(result.spec)) as file:
            file.write(json.dumps(asdict(result), indent=1).encode())

    def _path(self, spec: RunSpec) -> Path:
        return self.out / "runs" / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', spec.algorithm)}-seed{spec.seed}.json"
