"""What a backend does: it runs workers somewhere, and hands their rollouts to the main thread."""

from typing import Protocol, Self

from sb3_a3c.rollout import Rollout


class Backend(Protocol):
    """
    A context manager: within it workers run; when it is left, however it is left, all of them have ended, and an error
    that one of them ended with has been raised.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None: ...

    def collect(self) -> list[Rollout]:
        """
        Wait for the next rollouts. That the caller asks for them says that it has done with those of the last call.

        :return: As many as there are workers, so that together they are of all environments: one of each worker, in the
            order of the environments, or the first to arrive
        :raises BaseException: what a worker raised, itself
        """
