"""A worker in another process as the main thread sees it: its environments, which leave and come back."""

import warnings
from abc import ABC, abstractmethod
from typing import Any

import gymnasium as gym

from sb3_a3c.backends.process.messages import EnvCall, FinalState
from sb3_a3c.backends.process.parcel import pack, unpack
from sb3_a3c.envs.batches import Batch
from sb3_a3c.envs.slices import environments_in, is_reset_by_pickling
from sb3_a3c.policies.copies import CannotCopyPolicy
from sb3_a3c.worker.errors import name_environments
from sb3_a3c.worker.spec import WorkerSpec


class WorkerElsewhere(ABC):
    """
    See :class:`~sb3_a3c.backends.protocol.SeenWorker`.

    :param assignment: What its processes are started with: the specification of the worker, and more
    :param advice: What to do if that can't be pickled
    :raises TypeError: if it can't be pickled
    """

    def __init__(self, assignment: Any, advice: str) -> None:
        spec: WorkerSpec = assignment.spec
        self.index = spec.index
        self.env_indices = spec.env_indices
        self.env = spec.env
        self.last_obs = spec.last_obs
        self.last_episode_starts = spec.last_episode_starts
        self.state = spec.state
        self.failed = False
        #: Environments that copies have replaced. Not those that share a pipe (say) with the copies: it would be closed.
        self.replaced: list[gym.Env | Batch] = []
        #: The call that it has not answered.
        self.call: EnvCall | None = None
        #: Why its environments will be reset, for the user. Empty: they will not.
        self.lost = ""
        try:
            self._parcel = pack(assignment)
        except CannotCopyPolicy:
            raise
        except Exception as error:
            raise TypeError(
                f"{name_environments(spec.env_indices)}, or something else that worker {spec.index} needs, can't be pickled "
                f"for another process ({type(error).__name__}: {error}). {advice}"
            ) from error

    @abstractmethod
    def send(self, message: Any) -> None:
        """
        :param message: A message. If it can't get one now, it gets a :attr:`call` later
        """

    def take_back(self, state: FinalState) -> None:
        """
        :param state: Its final state
        """
        self.failed |= state.failed
        reason = state.lost
        if state.env is not None:
            try:
                env = unpack(state.env, self._parcel.handles)
                self.replaced = [] if state.shares else environments_in(self.env)
                self.env = env
                self.failed |= is_reset_by_pickling(env)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
        if state.env is not None or reason:  # else it has done nothing, and the main process's state is the same
            self.last_obs, self.last_episode_starts = state.last_obs, state.last_episode_starts
            self.state = state.state
        if reason:
            self.lose_envs(f"it can't be brought back from another process ({reason})")

    def lose_envs(self, why: str) -> None:
        """
        The present state of its environments is lost.

        :param why: For the user
        """
        self.failed = True
        self.lost = f"{name_environments(self.env_indices)} will begin anew: {why}"

    def warn_of_loss(self) -> None:
        """Tell the user, once, if its environments will be reset."""
        text, self.lost = self.lost, ""
        if text:
            warnings.warn(text, stacklevel=3)
