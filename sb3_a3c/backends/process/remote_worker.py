"""
A worker as the main process sees it, in whichever process it lives: how it is started, told to do something, and ended.

What it is told while it has no process, or one that is not ready yet, it is told when it is ready.
"""

import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import VecEnv

from sb3_a3c.backends.process.child import Life
from sb3_a3c.backends.process.guard import GUARD
from sb3_a3c.backends.process.mailbox import Mailbox
from sb3_a3c.backends.process.messages import EnvCall, Farewell, Learn, Permits, Stop, encode
from sb3_a3c.backends.process.parcel import Parcel, pack, reclaim_files, unpack
from sb3_a3c.backends.process.worker_process import Assignment
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.envs.pipes import discard_answers
from sb3_a3c.envs.slices import environments_in, is_reset_by_pickling
from sb3_a3c.policies.copies import CannotCopyPolicy
from sb3_a3c.worker.errors import name_environments

#: Seconds to wait for what environments in processes of their own still answer to a worker that was killed. Out of the air.
_PATIENCE = 1.0


class RemoteWorker:
    """
    See :class:`~sb3_a3c.backends.protocol.SeenWorker`.

    :param context: Of multiprocessing, with the start method
    :param assignment: What the process is started with
    :raises TypeError: if that can't be handed to a process
    """

    def __init__(self, context: Any, assignment: Assignment) -> None:
        spec = assignment.spec
        self.index = spec.index
        self.env_indices = spec.env_indices
        self.env: Any = spec.env  # a factory stays here
        self.last_obs = spec.last_obs
        self.last_episode_starts = spec.last_episode_starts
        self.state = spec.state
        self.failed = False
        #: Environments that those which came back have taken the place of. Those that share
        #: a pipe with them, say, are not among these: it would be closed.
        self.replaced: list[gym.Env] = []
        #: What went wrong when its process closed the environments that it had.
        self.unclosed: list[str] = []
        #: Its process, or the last that it had.
        self.life: Life | None = None
        self.n_lives = 0
        #: Rollouts that have come from it.
        self.n_rollouts = 0
        #: A call that it has not answered.
        self.call: EnvCall | None = None
        #: Why its environments have to begin anew, if they have to.
        self.lost = ""
        self._context = context
        self._hyperparameters = spec.hyperparameters
        self._n_permits = 0
        self._owed_permits = 0
        self._said_farewell = False
        self._sentence = ""
        self._parcel = _pack(assignment)
        self._mailbox: Mailbox

    def start(self, workers: Sequence["RemoteWorker"], mailbox: Mailbox) -> None:
        """
        Start a process.

        :param workers: All workers, some of which have a process
        :param mailbox: Where its messages come, and through which it is sent some
        :raises OSError: if there can be none now
        :raises EOFError: if the fork server has ended in the middle of this
        """
        self._sentence = ""
        others = [worker.life for worker in workers if worker.life is not None and not worker.life.ended]
        self.life = Life(self._context, f"A3C worker {self.index}", self._parcel, self.n_lives, others)
        self.n_lives += 1
        self._mailbox = mailbox
        mailbox.listen(self.index, self.life)

    @property
    def alive(self) -> bool:
        """Whether it has a process."""
        return self.life is not None and not self.life.ended

    @property
    def was_ready(self) -> bool:
        """Whether the process that it has, or has had last, was ever ready."""
        return self.life is not None and self.life.ready

    @property
    def ready(self) -> bool:
        """Whether it has a process that has said that it is there; before that it does nothing."""
        return self.alive and self.was_ready

    def begin(self) -> None:
        """Its process is there: tell it all that it has to know. It may make the rollouts that those before it have not."""
        assert self.life is not None
        self.life.ready = True
        if self.n_lives > 1:
            self.send(Learn(self._hyperparameters))
        if self.has_permit:
            self.send(Permits(self._n_permits - self.n_rollouts))
        if self.call is not None:
            self.send(self.call)

    @property
    def hyperparameters(self) -> Hyperparameters:
        """What it learns with."""
        return self._hyperparameters

    @hyperparameters.setter
    def hyperparameters(self, hyperparameters: Hyperparameters) -> None:
        if hyperparameters != self._hyperparameters:
            self._hyperparameters = hyperparameters
            self.send(Learn(hyperparameters))

    @property
    def has_permit(self) -> bool:
        """Whether it may make a rollout that has not come."""
        return self._n_permits > self.n_rollouts

    def permit(self, n_rollouts: int) -> None:
        """
        :param n_rollouts: So many rollouts more it may make
        """
        self._n_permits += n_rollouts
        self.send(Permits(n_rollouts))

    def owe_permit(self, max_lead: int) -> None:
        """
        Allow one more rollout; several are told of together, but never so late that the worker has none left.

        :param max_lead: Rollouts that it may be ahead
        """
        self._owed_permits += 1
        if self._owed_permits > max_lead // 4:
            self.permit(self._owed_permits)
            self._owed_permits = 0

    def ask(self, call: EnvCall) -> None:
        """
        :param call: What to do, and to answer
        """
        self.send(call)
        self.call = call

    def send(self, message: Any) -> None:
        """
        :param message: A message. If the process has ended, it is dropped
        """
        if self.ready:
            assert self.life is not None
            self._mailbox.send(self.life, encode(message))

    def stop(self) -> None:
        """Ask it to end. If its process has done nothing yet, there is nothing to wait for. It may be called again."""
        if self._said_farewell:
            return
        if self.ready:
            self.send(Stop())
            return
        was_lost = self.n_lives > 1 or not (self.alive or self.life is None or self.life.parted)
        if was_lost and not self.failed:
            self.lose("its process had ended, and there was no other yet")
        self.kill()

    def part(self, farewell: Farewell) -> None:
        """
        Take over what it has come to.

        :param farewell: Its last message
        """
        assert self.life is not None
        self.failed |= farewell.failed
        reason = farewell.lost
        if farewell.env is not None:
            try:
                env = unpack(farewell.env, self._parcel.handles)
                self.replaced = [] if farewell.shares else environments_in(self.env)
                self.env = env
                self.failed |= is_reset_by_pickling(env)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
        if farewell.env is not None or reason:  # else it has done nothing, and what is here is as it was
            self.last_obs, self.last_episode_starts = farewell.last_obs, farewell.last_episode_starts
            self.state = farewell.state
        if reason:
            self.lose(f"it can't be brought back from another process ({reason})")
        self.life.parted = self._said_farewell = True  # the last, for this may be interrupted

    def fail(self) -> None:
        """It has sent an error, so it makes no more rollouts. If that was before it was ready, it ends by itself."""
        assert self.life is not None
        self.life.parted |= not self.life.ready
        self.failed |= self.n_lives > 1

    def end(self) -> bool:
        """
        Note that its process has ended.

        :return: Whether it was to
        """
        assert self.life is not None
        self.life.end()
        return self.life.parted

    def give_up(self, patience: float | None) -> None:
        """
        End it in the middle of a step.

        :param patience: Seconds that it was given to end by itself, None: it was given none
        """
        if self.life is not None and self.alive and not self.life.parted:
            if patience is None:
                how = "was killed, because learn() was interrupted while it was ending"
            else:
                how = f"was still in a step {patience:g} s after it was asked to stop, and was killed"
            self.lose(f"worker {self.index} {how}")
        self.kill()

    def kill(self) -> None:
        """End its process at once, if it has one."""
        if self.life is not None and self.alive:
            self.life.parted = True
            self.life.kill()

    def condemn(self, sentence: str) -> None:
        """
        End its process, though it is not to end.

        :param sentence: What is to be said of it
        """
        if self.life is not None and self.alive:
            self._sentence = sentence
            self.life.kill()

    def lose(self, why: str) -> None:
        """
        Its environments, as they have come to be, are gone.

        :param why: For the user
        """
        self.failed = True
        self.lost = f"{name_environments(self.env_indices)} will begin anew: {why}"

    def close(self) -> None:
        """Have back what it had, when its process is no more: pipes in which nobody reads any more, and files."""
        if self.n_lives > 0 and not self._said_farewell and isinstance(self.env, VecEnv):
            with suppress(EOFError, OSError):
                discard_answers(self.env, _PATIENCE)
        reclaim_files(self._parcel)

    def cause_of_death(self) -> str:
        """
        :return: How its last process has ended
        """
        who = f"the process of worker {self.index}, which steps {name_environments(self.env_indices)},"
        if self._sentence:
            return f"{who} {self._sentence}"
        assert self.life is not None
        code = self.life.exit_code
        how = _how(code)
        if self.life.ready or (code and code < 0):
            return f"{who} {how}"
        why = f" A likely reason:\n\n{GUARD}" if self.n_lives == 1 else ""
        return f"{who} {how} before it was ready; what it has written says why.{why}"


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return (
            "has ended. Its exit code is not known, because this program ignores SIGCHLD, or waits for its child processes "
            "elsewhere"
        )
    if exit_code == 255:  # which stands for what multiprocessing does not know, too
        return "ended by itself (exit code 255), or was killed together with the fork server"
    return f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended by itself (exit code {exit_code})"


def _pack(assignment: Assignment) -> Parcel:
    try:
        return pack(assignment)
    except CannotCopyPolicy:
        raise
    except Exception as error:
        raise TypeError(
            f"{name_environments(assignment.spec.env_indices)}, or something else that worker {assignment.spec.index} needs, "
            f"can't be pickled for another process ({type(error).__name__}: {error}). Use a SubprocVecEnv, which takes "
            "constructors and makes each environment in the process that steps it: SubprocVecEnv([make_env, ...]), or "
            "make_vec_env(..., vec_env_cls=SubprocVecEnv). Or use backend='thread', or backend='serial' if only the thread "
            "that made an environment can use it: they pickle nothing."
        ) from error
