"""
A worker as the main process sees it, whichever process it runs in.

What it is told while it has no process, or one that is not ready yet, is sent when the process is ready.
"""

import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sb3_a3c.backends.process.guard import likely_reason
from sb3_a3c.backends.process.messages import FinalState, Permits, SetHyperparameters, Stop
from sb3_a3c.backends.process.parcel import reclaim_files
from sb3_a3c.backends.process.runner import Assignment
from sb3_a3c.backends.process.worker_elsewhere import WorkerElsewhere
from sb3_a3c.backends.process.worker_process import Inbox, WorkerProcess
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.envs.pipes import discard_answers
from sb3_a3c.worker.errors import name_environments

#: Seconds to wait for what the processes of a SubprocVecEnv still answer to a worker that was killed. Chosen arbitrarily.
_PATIENCE = 1.0
#: What to do if environments can't be pickled.
_ADVICE = (
    "Use a SubprocVecEnv, which takes constructors and makes each environment in the process that steps it: "
    "SubprocVecEnv([make_env, ...]), or make_vec_env(..., vec_env_cls=SubprocVecEnv). Or use backend='thread', or "
    "backend='serial' if only the thread that made an environment can use it: they pickle nothing."
)


class RemoteWorker(WorkerElsewhere):
    """
    See :class:`~sb3_a3c.backends.protocol.SeenWorker`.

    :param context: Of multiprocessing, with the start method
    :param assignment: What its processes are started with
    :param inbox: Where its messages go
    :raises TypeError: if the assignment can't be pickled
    """

    def __init__(self, context: Any, assignment: Assignment, inbox: Inbox) -> None:
        super().__init__(assignment, _ADVICE)
        #: Its process, or the last one that it had.
        self.process: WorkerProcess | None = None
        self.n_processes = 0
        #: Rollouts that have arrived from it.
        self.n_rollouts = 0
        self._context = context
        self._inbox = inbox
        self._hyperparameters = assignment.spec.hyperparameters
        self._n_permits = 0
        self._max_lead = 0
        self._unsent_permits = 0
        self._sent_final_state = False
        self._killed_because = ""

    def start(self, workers: Sequence["RemoteWorker"]) -> None:
        """
        Start a process.

        :param workers: All workers
        :raises OSError: if no further process can be started now
        :raises EOFError: if the fork server ended during the start
        """
        self._killed_because = ""
        others = [worker.process for worker in workers if worker.process is not None and not worker.process.closed]
        self.process = WorkerProcess(self._context, self.index, self._parcel, self.n_processes, others, self._inbox)
        self.n_processes += 1

    @property
    def alive(self) -> bool:
        """Whether it has a process that has not been found to have exited."""
        return self.process is not None and not self.process.closed

    @property
    def was_ready(self) -> bool:
        """Whether its process, or the last one that it had, was ever ready."""
        return self.process is not None and self.process.ready

    @property
    def ready(self) -> bool:
        """Whether it has a process that has said that it is ready."""
        return self.alive and self.was_ready

    def on_ready(self) -> None:
        """Its process is ready. Tell it everything that it must know, and permit the rollouts that have not arrived."""
        assert self.process is not None
        self.process.ready = True
        if self.n_processes > 1:
            self.send(SetHyperparameters(self._hyperparameters))
        if self.has_permit:
            self.send(Permits(self._n_permits - self.n_rollouts))
        if self.call is not None:
            self.send(self.call)

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Its hyperparameters."""
        return self._hyperparameters

    @hyperparameters.setter
    def hyperparameters(self, hyperparameters: Hyperparameters) -> None:
        if hyperparameters != self._hyperparameters:
            self._hyperparameters = hyperparameters
            self.send(SetHyperparameters(hyperparameters))

    @property
    def has_permit(self) -> bool:
        """Whether it may make a rollout that has not arrived."""
        return self._n_permits > self.n_rollouts

    def permit(self, n_rollouts: int) -> None:
        """
        :param n_rollouts: How many more rollouts it may make
        """
        self._n_permits += n_rollouts
        self.send(Permits(n_rollouts))

    def permit_lead(self, max_lead: int) -> None:
        """
        :param max_lead: How many rollouts it may be ahead
        """
        self._max_lead = max_lead
        if max_lead > 0:
            self.permit(max_lead)

    def renew_permit(self) -> None:
        """Permit one more rollout. Several permits are sent together, but never so late that the worker has none left."""
        self._unsent_permits += 1
        if self._unsent_permits > self._max_lead // 4:
            self.permit(self._unsent_permits)
            self._unsent_permits = 0

    def send(self, message: Any) -> None:
        """See :meth:`WorkerElsewhere.send`. If no process is ready, it is dropped."""
        if self.process is not None and self.ready:
            self.process.send(message)

    def stop(self) -> None:
        """Ask it to stop. A process that is not ready has done nothing, and is killed. May be called again."""
        if self._sent_final_state:
            return
        if self.ready:
            self.send(Stop())
            return
        has_died = self.was_ready and not (self.alive or self.process is None or self.process.may_exit)
        if (self.n_processes > 1 or has_died) and not self.failed:
            self.lose_envs(f"the process of worker {self.index} had ended, and no other had started yet")
        self.kill()

    def take_back(self, state: FinalState) -> None:
        """
        :param state: Its final state
        """
        assert self.process is not None
        super().take_back(state)
        self.process.may_exit = self._sent_final_state = True  # at the end, because this may be interrupted

    def on_failure(self) -> None:
        """It has sent an error, so it makes no more rollouts. If it was not ready yet, its process exits by itself."""
        assert self.process is not None
        self.process.may_exit |= not self.process.ready
        self.failed |= self.n_processes > 1

    def on_exit(self) -> bool:
        """
        Its process has exited.

        :return: Whether it was meant to
        """
        assert self.process is not None
        self.process.close()
        return self.process.may_exit

    def terminate(self, patience: float | None) -> None:
        """
        Kill its process, even in the middle of a step, because the run ends.

        :param patience: Seconds that it was given to stop, None: it was given none
        """
        if self.process is not None and self.alive and not self.process.may_exit:
            if patience is None:
                how = "was killed, because learn() was interrupted while it was ending"
            else:
                how = f"was still in a step {patience:g} s after it was asked to stop, and was killed"
            self.lose_envs(f"worker {self.index} {how}")
        self.kill()

    def kill(self) -> None:
        """Kill its process, if it has one. It is not replaced."""
        if self.process is not None and self.alive:
            self.process.may_exit = True
            self.process.kill()

    def kill_to_replace(self, why: str) -> None:
        """
        Kill its process, which is treated like one that has died by itself.

        :param why: For the user
        """
        if self.process is not None and self.alive:
            self._killed_because = why
            self.process.kill()

    def close(self) -> None:
        """Take back what its processes had, after they have exited: pipes with answers that nobody reads, and files."""
        if self.n_processes > 0 and not self._sent_final_state:
            with suppress(EOFError, OSError):
                discard_answers(self.env, _PATIENCE)
        reclaim_files(self._parcel)

    def describe_exit(self) -> str:
        """
        :return: How its last process has exited
        """
        assert self.process is not None
        who = f"the process of worker {self.index}, which steps {name_environments(self.env_indices)},"
        if self._killed_because:
            return f"{who} {self._killed_because}"
        code = self.process.exit_code
        if self.process.ready or (code and code < 0):
            return f"{who} {_describe(code)}"
        why = f" A likely reason:\n\n{likely_reason()}" if self.n_processes == 1 else ""
        return f"{who} {_describe(code)} before it was ready; see what it has printed.{why}"


def _describe(exit_code: int | None) -> str:
    if exit_code is None:
        return (
            "has ended. Its exit code is not known, because this program ignores SIGCHLD, or waits for its child processes "
            "elsewhere"
        )
    if exit_code == 255:  # multiprocessing's value for an exit code that it does not know, too
        return "ended by itself (exit code 255), or was killed together with the fork server"
    return f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended by itself (exit code {exit_code})"
