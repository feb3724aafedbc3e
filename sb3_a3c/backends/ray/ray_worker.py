"""A worker on Ray as the main thread sees it, whichever actor it runs in."""

from collections.abc import Callable

from stable_baselines3.common.monitor import ResultsWriter

from sb3_a3c.backends.process.installation import Installation
from sb3_a3c.backends.process.messages import EnvCall
from sb3_a3c.backends.process.parcel import MonitorFile, reclaim_files
from sb3_a3c.backends.process.worker_elsewhere import WorkerElsewhere
from sb3_a3c.backends.ray.messages import Assignment, Pull, Start
from sb3_a3c.system.import_path import import_path
from sb3_a3c.worker.errors import name_environments

#: What to do if environments can't be sent.
_ADVICE = (
    "Let each worker make its own environments: pass the id of a registered environment, or a function that makes a "
    "batched one. Or use backend='thread', which pickles nothing."
)


class RayWorker(WorkerElsewhere):
    """
    See :class:`~sb3_a3c.backends.protocol.SeenWorker`.

    :param assignment: What its actors are started with
    :param call_env: Sends its actor a call
    :raises TypeError: if its environments can't be sent to another machine
    """

    def __init__(self, assignment: Assignment, call_env: Callable[[int, EnvCall], None]) -> None:
        super().__init__(assignment, _ADVICE)
        spec, handles = assignment.spec, self._parcel.handles
        stuck = sorted({type(handle).__name__ for handle in handles if not isinstance(handle, ResultsWriter)})
        if stuck:
            raise TypeError(
                f"{name_environments(spec.env_indices)} can't leave this machine with backend='ray', because they use what "
                f"only its processes share ({', '.join(stuck)}), as a SubprocVecEnv does. {_ADVICE}"
            )
        #: Its hyperparameters, sent with the next rollout that is handed out.
        self.hyperparameters = spec.hyperparameters
        self._call_env = call_env

    def start_message(self, number: int, pull: Pull) -> Start:
        """
        :param number: Which actor of this worker is to be started, from 0
        :param pull: The shared parameters, beside the vector
        :return: What to send it
        """
        parcel, here = self._parcel, Installation.here()
        files = [MonitorFile.of(handle) for handle in parcel.handles]
        return Start(parcel.content, files, parcel.numpy_errors, here.version, here.kernels, import_path(), number, pull)

    def send(self, message: EnvCall) -> None:
        """See :meth:`WorkerElsewhere.send`."""
        self._call_env(self.index, message)

    def close(self) -> None:
        """Go on where its actors have written files, after they have ended."""
        reclaim_files(self._parcel)
