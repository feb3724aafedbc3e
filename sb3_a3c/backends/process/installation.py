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
#: Also held while this process forks: a fork within the block below would copy the variables, and a lock that nobody releases.
_changing_variables = threading.RLock()
if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(
        before=_changing_variables.acquire,
        after_in_parent=_changing_variables.release,
        after_in_child=_changing_variables.release,
    )


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
    """
    A fork server started within the block imports the same packages as this process, whatever is in the current folder.

    Only new processes get its variables. ``os.environ`` does not change, so no other thread sees them. Enter it in a thread
    that Ctrl-C does not reach: an interrupt could come before the variables are set back.
    """
    with _changing_variables:
        variables = same_path()
        variables[_SET_BACK] = json.dumps({name: os.environ.get(name) for name in variables})
        try:
            for name, value in variables.items():
                os.putenv(name, value)
            yield
        finally:
            for name in variables:
                if name in os.environ:
                    os.putenv(name, os.environ[name])
                else:
                    os.unsetenv(name)


def set_back() -> None:
    """Set the environment variables back, in the fork server, so that processes of environments have the user's."""
    for name, value in json.loads(os.environ.pop(_SET_BACK, "{}")).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
