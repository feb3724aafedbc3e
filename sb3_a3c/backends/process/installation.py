"""What a worker's process must share with the main process: the copy of the package, and the cache of compiled kernels."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Self

from sb3_a3c.kernels.cache import cache_folder, use_cache
from sb3_a3c.system.import_path import same_path

#: Environment variable that tells the fork server which variables to set back.
_SET_BACK = "SB3_A3C_SET_BACK"
_changing_variables = threading.Lock()


class Installation(NamedTuple):
    """
    :param file: Where the package was imported from
    :param version: Its version
    :param kernels: The folder of compiled kernels. None: numba chooses one
    """

    file: str
    version: str
    kernels: str | None

    @classmethod
    def here(cls) -> Self:
        """
        :return: The installation that this process uses
        """
        package = sys.modules["sb3_a3c"]
        return cls(str(package.__file__), package.__version__, cache_folder())

    def adopt(self) -> None:
        """
        Use the main process's installation, which this is, in a worker's process: load compiled kernels from its folder.

        :raises RuntimeError: if this process has imported another copy of the package
        """
        ours = Installation.here()
        if (os.path.realpath(ours.file), ours.version) != (os.path.realpath(self.file), self.version):
            raise RuntimeError(
                f"this process has imported sb3_a3c {ours.version} from {ours.file}, but the main process sb3_a3c "
                f"{self.version} from {self.file}: both must import the same copy. A fork server that the program started "
                "before it made the model may have found the other copy in its current folder; set the environment variable "
                "PYTHONSAFEPATH=1, or start the program in another folder"
            )
        use_cache(self.kernels if self.kernels != ours.kernels else None)


@contextmanager
def importing_the_same() -> Iterator[None]:
    """A fork server started within the block imports the same packages as this process, whatever is in the current folder."""
    with _changing_variables:
        variables = same_path()
        before = {name: os.environ.get(name) for name in variables}
        try:
            os.environ.update(variables, **{_SET_BACK: json.dumps(before)})
            yield
        finally:
            set_back()


def set_back() -> None:
    """Set the environment variables back, here or in the fork server, so that processes of environments have the user's."""
    for name, value in json.loads(os.environ.pop(_SET_BACK, "{}")).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
