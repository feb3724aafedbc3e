"""Processes of this machine among those of actors: their end can be waited for."""

import os
from contextlib import suppress
from multiprocessing.connection import wait

from sb3_a3c.backends.process.parent_death import open_pidfd


def machine() -> str:
    """
    :return: The same for two processes if one can see the other by its id
    """
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""


class LocalProcess:
    """
    A process of this machine, or nothing if it is of another.

    :param machine_: What :func:`machine` returned there
    :param pid: Its id there
    """

    def __init__(self, machine_: str = "", pid: int = 0) -> None:
        self._descriptor = open_pidfd(pid) if machine_ and machine_ == machine() else None

    def wait(self, timeout: float) -> bool:
        """
        :param timeout: Seconds to wait for its end
        :return: Whether it has ended. Nothing has
        """
        return self._descriptor is None or bool(wait([self._descriptor], timeout))

    def close(self) -> None:
        """Release what it holds."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
