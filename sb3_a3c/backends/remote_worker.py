"""A worker process as the main process sees it: how it is started, told to do something, and ended."""

import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from sb3_a3c.backends.messages import Farewell, Learn, Permits, Stop, encode
from sb3_a3c.backends.worker_process import Assignment, live
from sb3_a3c.env_slices import begins_anew_elsewhere, discard_answers
from sb3_a3c.faults import WorkerDied, name_environments
from sb3_a3c.hyperparameters import Hyperparameters
from sb3_a3c.parcel import Parcel, pack, reclaim_files, unpack

#: What to do about a process that can't be started, because the script that it imports starts another.
GUARD = """\
The script that is run needs a guard, for each new process imports it, and would run all that is in it:

    if __name__ == "__main__":
        model = A3C(..., backend="process")
        model.learn()
"""
#: Seconds to wait for what environments in processes of their own still answer to a worker that was killed. Out of the air.
_PATIENCE = 1.0


class RemoteWorker:
    """
    See :class:`~sb3_a3c.backends.protocol.SeenWorker`.

    :param context: Of multiprocessing, with the start method
    :param assignment: What the process is started with
    :raises TypeError: if that can't be handed to a process
    """

    connection: Connection
    process: Any

    def __init__(self, context: Any, assignment: Assignment) -> None:
        spec = assignment.spec
        self.index = spec.index
        self.env_indices = spec.env_indices
        self.env = spec.env
        self.last_obs = spec.last_obs
        self.last_episode_starts = spec.last_episode_starts
        self.failed = False
        #: Whether it has said that it is there; before that it does nothing.
        self.ready = False
        #: Whether it is right for it to end: it has said farewell, or we have ended it.
        self.parted = False
        #: Whether its process has ended.
        self.ended = False
        #: Why its environments have to begin anew, if they have to.
        self.lost = ""
        self._context = context
        self._hyperparameters = spec.hyperparameters
        self._owed_permits = 0
        self._parcel = _pack(assignment)

    def start(self, workers: Sequence["RemoteWorker"]) -> None:
        """
        Start the process.

        :param workers: All workers, some of which have been started
        """
        self.connection, theirs = self._context.Pipe()
        forks = self._context.get_start_method() == "fork"
        not_ours = [worker.connection for worker in workers if "connection" in vars(worker)] if forks else []
        self.process = self._context.Process(
            target=live, args=(theirs, self._parcel, not_ours), name=f"A3C worker {self.index}", daemon=True
        )
        try:
            self.process.start()
        finally:
            theirs.close()

    @property
    def hyperparameters(self) -> Hyperparameters:
        """What it learns with."""
        return self._hyperparameters

    @hyperparameters.setter
    def hyperparameters(self, hyperparameters: Hyperparameters) -> None:
        if hyperparameters != self._hyperparameters:
            self._hyperparameters = hyperparameters
            self.send(Learn(hyperparameters))

    def owe_permit(self, max_lead: int) -> None:
        """
        Allow one more rollout; several are told of together, but never so late that the worker has none left.

        :param max_lead: Rollouts that it may be ahead
        """
        self._owed_permits += 1
        if self._owed_permits > max_lead // 4:
            self.send(Permits(self._owed_permits))
            self._owed_permits = 0

    def send(self, message: Any) -> None:
        """
        :param message: A message; that it can't be sent to a process that has ended is found by who reads
        """
        with suppress(OSError):
            self.connection.send_bytes(encode(message))

    def stop(self) -> None:
        """Ask it to end. If it has done nothing yet, there is nothing to wait for."""
        if self.ready:
            self.send(Stop())
        elif not self.ended:
            self.parted = True
            self.process.kill()

    def part(self, farewell: Farewell) -> None:
        """
        Take over what it has come to.

        :param farewell: Its last message
        """
        self.parted = True
        self.failed |= farewell.failed
        self.last_obs, self.last_episode_starts = farewell.last_obs, farewell.last_episode_starts
        reason = farewell.lost
        if farewell.env is not None:
            try:
                self.env = unpack(farewell.env, self._parcel.handles)
                self.failed |= begins_anew_elsewhere(self.env)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
        if reason:
            self._lose(f"it can't be brought back from another process ({reason})")

    def give_up(self, patience: float) -> None:
        """
        End it in the middle of a step.

        :param patience: Seconds that it was given to end by itself
        """
        if not self.ended and not self.parted:
            self._lose(f"worker {self.index} was still in a step {patience:g} s after it was asked to stop, and was killed")
        self.kill()

    def kill(self) -> None:
        """End it at once, if it is alive."""
        if "process" in vars(self) and self.process.pid is not None and not self.ended:
            self.parted = True
            self.process.kill()
            self.process.join()
            self.end()
            discard_answers(self.env, _PATIENCE)

    def close(self) -> None:
        """Close the pipe to it, which nobody reads any more, and have the files back that it wrote to."""
        if "connection" in vars(self):
            self.connection.close()
        reclaim_files(self._parcel)

    def end(self) -> list[WorkerDied]:
        """
        Note that its process has ended.

        :return: Why it has, if it was not to
        """
        self.ended = True
        if self.parted:
            return []
        self.failed |= self.ready
        discard_answers(self.env, _PATIENCE)
        return [WorkerDied(self._cause_of_death())]

    def _lose(self, why: str) -> None:
        self.failed = True
        self.lost = f"{name_environments(self.env_indices)} will begin anew: {why}"

    def _cause_of_death(self) -> str:
        who = f"the process of worker {self.index}, which steps {name_environments(self.env_indices)},"
        code = self.process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended by itself (exit code {code})"
        if self.ready or (code and code < 0):
            return f"{who} {how}"
        return f"{who} {how} before it was ready; what it has written says why. A likely reason:\n\n{GUARD}"


def _pack(assignment: Assignment) -> Parcel:
    try:
        return pack(assignment)
    except Exception as error:
        raise TypeError(
            f"{name_environments(assignment.spec.env_indices)}, or something else that worker {assignment.spec.index} needs, "
            f"can't be handed to another process ({type(error).__name__}: {error}). What can: environments that can be "
            "pickled, or a SubprocVecEnv, which takes constructors: SubprocVecEnv([make_env, ...]). backend='thread' "
            "needs neither."
        ) from error
