"""What a backend does: it runs workers somewhere, and hands their rollouts to the main thread."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import gymnasium as gym
import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.engines import State
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.worker.rollout import Rollout


@dataclass(frozen=True)
class Option:
    """
    An option of a backend's own.

    :param allowed: What it may be, for the user
    :param accepts: Whether it may be this
    """

    allowed: str
    accepts: Callable[[Any], bool]

    @classmethod
    def one_of(cls, values: Sequence[Any]) -> Self:
        """
        :param values: What it may be
        :return: An option that may be one of those
        """
        return cls(f"one of {list(values)}", lambda value: value in values)


class SeenWorker(Protocol):
    """
    What the main thread sees of a :class:`~sb3_a3c.worker.worker.Worker`, wherever it is. Once the backend has been left,
    ``env``, ``last_obs``, ``last_episode_starts`` and ``state`` are what the worker has come to.
    """

    index: int
    env: VecEnv
    hyperparameters: Hyperparameters
    failed: bool
    #: Environments of the user's VecEnv whose copies are in ``env``. When these have taken their place, they are to be closed.
    replaced: list[gym.Env]

    @property
    def last_obs(self) -> VecEnvObs:
        """Current observations of its environments, each ``(n_envs, ...)``."""

    @property
    def last_episode_starts(self) -> np.ndarray:
        """Whether episodes start with these observations, ``(n_envs,)``."""

    @property
    def state(self) -> State | None:
        """The hidden state of a recurrent policy, of each environment. None: there is none."""


class Backend(Protocol):
    """
    A context manager: within it workers run; when it is left, however it is left, all of them have ended, and an error
    that one of them ended with has been raised. An exception can come at any line (Ctrl-C): ``__exit__`` is called although
    ``__enter__`` was interrupted, and is called again if it is itself interrupted.
    """

    #: The options that there are.
    options: ClassVar[dict[str, Option]]
    #: Whether workers and their environments are in other processes.
    elsewhere: ClassVar[bool]
    #: Whether the only worker waits for callbacks, so that its gradient is applied after they have seen the rollout.
    waits: bool

    @property
    def n_restarts(self) -> int:
        """How many workers have died and been replaced."""

    @property
    def workers(self) -> Sequence[SeenWorker]:
        """The workers, in the order of their environments."""

    def __enter__(self) -> Self: ...

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None: ...

    def collect(self) -> list[Rollout]:
        """
        Wait for the next rollouts. That the caller asks for them says that it has done with those of the last call.

        :return: As many as there are workers, so that together they are of all environments: one of each worker, in the
            order of the environments, or the first to arrive
        :raises BaseException: what a worker raised, itself
        """

    def learn(self, written: RolloutBuffer | None) -> list[Rollout]:
        """
        Apply the gradients of the rollouts that :meth:`collect` gave last, if they wait for callbacks.

        :param written: A buffer with what callbacks were shown and may have written to. None: they were not shown it
        :return: The rollouts, with what has come of them
        :raises BaseException: what a worker raised, itself
        """

    def reach(self, method: Callable) -> Callable:
        """
        :param method: A method of the VecEnv that was sliced, bound to it
        :return: One that does the same where the environments live, between two of their steps
        """
