"""What a backend is: it runs workers somewhere, and hands their rollouts to the main thread."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import gymnasium as gym
import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.backends.max_lead import MaxLead
from sb3_a3c.backends.quota import RolloutOrder
from sb3_a3c.engines import State
from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.envs.batches import Batch
from sb3_a3c.envs.gate import between_steps
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.worker.rollout import Rollout
from sb3_a3c.worker.spec import WorkerSpec


@dataclass(frozen=True)
class Option:
    """
    An option of one backend, a key of ``backend_kwargs``.

    :param allowed: The allowed values, in words
    :param accepts: Whether a value is allowed
    """

    allowed: str
    accepts: Callable[[Any], bool]

    @classmethod
    def one_of(cls, values: Sequence[Any]) -> Self:
        """
        :param values: The allowed values
        :return: An option that accepts them
        """
        return cls(f"one of {list(values)}", lambda value: value in values)


@dataclass(frozen=True)
class RunSpec:
    """
    What one ``learn()`` asks of a backend.

    :param specs: One specification per worker, in the order of their environments
    :param parameters: The shared parameters
    :param n_rollouts: How often :meth:`Backend.collect` is called at most
    :param rollout_order: "env": one rollout of each worker, "arrival": the first rollouts to arrive
    :param max_lead: How far a worker may be ahead of the main thread
    """

    specs: Sequence[WorkerSpec]
    parameters: SharedParameters
    n_rollouts: int
    rollout_order: RolloutOrder
    max_lead: MaxLead


class SeenWorker(Protocol):
    """
    A :class:`~sb3_a3c.worker.worker.Worker` as the main thread sees it, wherever it runs. After the backend was exited,
    ``env``, ``last_obs``, ``last_episode_starts`` and ``state`` hold the worker's final state.
    """

    index: int
    env: VecEnv
    hyperparameters: Hyperparameters
    failed: bool
    #: Environments of the user's VecEnv whose copies are in ``env``. They are closed when the copies have replaced them.
    replaced: list[gym.Env | Batch]

    @property
    def last_obs(self) -> VecEnvObs:
        """Current observations of its environments, each ``(n_envs, ...)``."""

    @property
    def last_episode_starts(self) -> np.ndarray:
        """Whether episodes start with these observations, ``(n_envs,)``."""

    @property
    def state(self) -> State | None:
        """The hidden state of a recurrent policy, of each environment. None: there is none."""


class Backend(ABC):
    """
    Where workers run: a context manager. Workers run within the block. When the block is left, for whatever reason, all
    workers have ended, and an error of one of them has been raised. An exception can come at any line (Ctrl-C): ``__exit__``
    is called even if ``__enter__`` was interrupted, and is called again if it was itself interrupted.

    A subclass has a constructor that takes a :class:`RunSpec` and, as keyword arguments, its own ``options``.
    """

    #: The backend's own options, the keys of ``backend_kwargs``.
    options: ClassVar[dict[str, Option]] = {}
    #: Whether workers and their environments are in other processes.
    is_remote: ClassVar[bool] = False
    #: Whether two runs with the same seed give the same result, bit for bit.
    is_repeatable: ClassVar[bool] = False
    #: How many workers have died and been replaced.
    n_restarts: int = 0
    #: One :class:`SeenWorker` per worker, in the order of their environments.
    workers: Sequence[Any]

    @property
    def failed_workers(self) -> Sequence[int]:
        """The workers whose errors have been raised or noted, in that order. The default is for workers in this thread."""
        return [worker.index for worker in self.workers if worker.failed]

    @classmethod
    def prepare(cls, options: dict[str, Any] | None) -> None:
        """
        Start what the first run would otherwise wait for. Called while the model is built. The default does nothing.

        :param options: The argument ``backend_kwargs``, which has not been checked yet
        """
        return

    @classmethod
    def n_cores(cls) -> int | None:
        """
        :return: How many cores of this machine workers can keep busy with Python code, None: it is not known
        """
        return None

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        """End all workers, and raise what one of them failed with."""

    @abstractmethod
    def collect(self) -> list[Rollout]:
        """
        Wait for the next rollouts. The call says that the caller is done with those of the last call.

        :return: As many as there are workers, together of all environments: one of each worker in the order of the
            environments, or the first to arrive
        :raises BaseException: The exception that a worker raised
        """

    def learn(self, rollouts: list[Rollout], written: RolloutBuffer | None) -> list[Rollout]:
        """
        Apply the gradients of rollouts that waited for callbacks. The default is for workers that do not wait.

        :param rollouts: What :meth:`collect` returned last
        :param written: A buffer that callbacks were shown and may have written to. None: they were not shown it
        :return: The rollouts, with their losses
        :raises BaseException: The exception that a worker raised
        """
        return rollouts

    def reach(self, method: Callable) -> Callable:
        """
        The default is for workers in this process, which hold their ``env_lock`` during a step.

        :param method: A bound method of the VecEnv that was sliced
        :return: A function that does the same where the environments are, between two of their steps
        """
        return between_steps(method, [worker.env_lock for worker in self.workers])
