"""
The folder of a comparison: finished runs, a file each, and the tables made of them.

A run is there whole or not at all: its file is written under another name and renamed. One comparison at a time has the
folder, and the system takes it back from a program that has ended, however that ended.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such module; see Store.taken
    fcntl = None  # type: ignore[assignment]

from sb3_a3c.comparison.faults import BadArgument
from sb3_a3c.comparison.run import RunResult, RunSpec
from sb3_a3c.system.files import atomic_write


class Store:
    """
    :param out: The folder, which need not be there yet
    """

    def __init__(self, out: Path) -> None:
        self.out = out

    @contextmanager
    def taken(self) -> Iterator[None]:
        """
        Keep the folder to ourselves.

        :raises BadArgument: if another comparison is at work there, it can't be written to, or the platform can't lock it
        """
        if fcntl is None:
            raise BadArgument("a comparison needs Linux or macOS: it locks its folder with fcntl, which this platform lacks")
        try:
            (self.out / "runs").mkdir(parents=True, exist_ok=True)
            lock = open(self.out / "runs" / ".lock", "w", encoding="utf-8")
        except OSError as error:
            raise BadArgument(f"out must be a folder that can be written to, but {str(self.out)!r} is not: {error}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BadArgument(f"out: another comparison is at work in {str(self.out)!r}; choose another folder") from error
            yield

    def load(self, spec: RunSpec) -> RunResult | None:
        """
        :param spec: A run
        :return: Its result, if it is finished
        :raises BadArgument: if there is one of another comparison in its place, or the file can't be read
        """
        path = self._path(spec)
        if not path.exists():
            return None
        try:
            result = RunResult.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise BadArgument(
                f"out: {str(path)!r} is not a run of this version's: {error!r}; remove it, or choose another"
            ) from error
        there, here = asdict(result.spec), asdict(spec)
        differences = [
            f"{name} is {there[name]!r} there and {here[name]!r} here" for name in here if there[name] != here[name]
        ]
        if differences:
            raise BadArgument(f"out: {str(path)!r} is of another comparison: {'; '.join(differences)}; choose another folder")
        return result

    def save(self, result: RunResult) -> None:
        """
        :param result: Of a finished run
        """
        with atomic_write(self._path(result.spec)) as file:
            file.write(json.dumps(result.as_dict(), indent=1).encode())

    def write_table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """
        :param name: The file's name
        :param header: Names of the columns
        :param rows: The rows
        """
        with open(self.out / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)

    def _path(self, spec: RunSpec) -> Path:
        return self.out / "runs" / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', spec.algorithm)}-seed{spec.seed}.json"
