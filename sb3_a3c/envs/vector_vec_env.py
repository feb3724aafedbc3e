"""A VecEnv of Stable-Baselines3 over batched environments, which are divided among workers by batches."""

import time
import warnings
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_a3c.envs.batches import Batch, EndOfEpisode, concat, concat_steps, info_of
from sb3_a3c.envs.declarations import register_vec_env


class VectorVecEnv(VecEnv):
    """
    Batched environments as one VecEnv, for A3C and every other algorithm of Stable-Baselines3. Workers get whole batches. In a
    worker process, a batch is made anew by its function.

    The infos of a step are empty, except those of environments whose episodes have ended. They hold ``terminal_observation``,
    ``TimeLimit.truncated``, ``episode`` (as ``Monitor`` adds it; from the batched environment's ``RecordEpisodeStatistics`` if
    it has one) and what the batched environment tells of them.

    A batched environment that resets in the next step (``AutoresetMode.NEXT_STEP``, Gymnasium's default, and EnvPool) makes a
    step whose action is ignored. It is counted like any other, and :attr:`only_reset` tells where it was made. A3C does not
    learn from it.

    :param batches: One function per batch that makes a ``gymnasium.vector.VectorEnv`` or an environment of EnvPool; or such
        environments themselves, which can't be used in worker processes
    :raises ValueError: if there are no batches, or the spaces of two batches differ
    """

    def __init__(self, batches: Sequence[Callable[[], VectorEnv] | VectorEnv]) -> None:
        if not isinstance(batches, Sequence):
            raise TypeError(f"batches must be a list of functions that make batched environments, not {batches!r}")
        if not len(batches):
            raise ValueError("batches must be at least one function that makes a batched environment, but it is empty")
        self.batches = [Batch(make) for make in batches]
        spaces = self.batches[0].spaces
        for batch in self.batches[1:]:
            if batch.spaces != spaces:
                raise ValueError(f"batches must have the same spaces, but they have {spaces} and {batch.spaces}")
        _check_differ([batch.env.unwrapped for batch in self.batches])
        self.sizes = [batch.env.num_envs for batch in self.batches]
        n_envs = sum(self.sizes)
        self.episode_returns = np.zeros(n_envs)
        self.episode_lengths = np.zeros(n_envs, dtype=int)
        #: Whether environments will ignore their next action, because they will only be reset, ``(n_envs,)``.
        self.inactive = np.zeros(n_envs, dtype=bool)
        #: Whether environments have ignored their last action.
        self.only_reset = np.zeros(n_envs, dtype=bool)
        #: Whether all environments that report nothing of a step share one empty info.
        self.shares_empty_info = False
        self._started = time.time()
        super().__init__(n_envs, *spaces)

    def batch_indices(self) -> list[np.ndarray]:
        """
        :return: For each batch, the indices of its environments
        """
        return np.split(np.arange(self.num_envs), np.cumsum(self.sizes)[:-1])

    def part(self, indices: np.ndarray) -> "VectorVecEnv":
        """
        :param indices: Indices of all environments of some batches
        :return: A VecEnv over these batches, in the same state
        """
        chosen = [n for n, of_batch in enumerate(self.batch_indices()) if of_batch[0] in indices]
        part = copy(self)
        part.num_envs = len(indices)
        part.batches, part.sizes = [self.batches[n] for n in chosen], [self.sizes[n] for n in chosen]
        for name in ("episode_returns", "episode_lengths", "inactive", "only_reset"):
            setattr(part, name, getattr(self, name)[indices])
        for name in ("reset_infos", "_seeds", "_options"):
            setattr(part, name, [getattr(self, name)[index] for index in indices])
        return part

    def reset(self) -> VecEnvObs:
        """As ``VecEnv.reset``. The seed of a batch is that of its first environment."""
        results = [
            batch.reset(self._seeds[of_batch[0]], self._options[of_batch[0]] or None)
            for batch, of_batch in zip(self.batches, self.batch_indices(), strict=True)
        ]
        self.reset_infos = [
            info_of(infos, index) for (_, infos), size in zip(results, self.sizes, strict=True) for index in range(size)
        ]
        self.episode_returns[:], self.episode_lengths[:], self.inactive[:], self.only_reset[:] = 0, 0, False, False
        self._reset_seeds()
        self._reset_options()
        return concat([obs for obs, _ in results])

    def step_async(self, actions: np.ndarray) -> None:
        """As ``VecEnv.step_async``."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """As ``VecEnv.step_wait``."""
        parts = [self._actions] if len(self.batches) == 1 else np.split(self._actions, np.cumsum(self.sizes)[:-1])
        step = concat_steps([batch.step(part) for batch, part in zip(self.batches, parts, strict=True)])
        self.only_reset, self.inactive = self.inactive, step.inactive
        self.episode_returns += np.where(self.only_reset, 0, step.rewards)
        self.episode_lengths += ~self.only_reset
        infos: list[dict[str, Any]] = [{}] * self.num_envs if self.shares_empty_info else [{} for _ in range(self.num_envs)]
        for end in step.ends:
            infos[end.env_index] = self._end_episode(end)
        return step.obs, step.rewards.astype(np.float32), step.dones, infos

    def _end_episode(self, end: EndOfEpisode) -> dict[str, Any]:
        """
        :param end: An episode that has ended
        :return: The info of its environment
        """
        statistics = {
            "r": round(float(self.episode_returns[end.env_index]), 6),
            "l": int(self.episode_lengths[end.env_index]),
            "t": round(time.time() - self._started, 6),
        }
        self.episode_returns[end.env_index], self.episode_lengths[end.env_index] = 0, 0
        counted = end.info.get("episode")
        has_counted = isinstance(counted, dict) and {"r", "l"} <= counted.keys()
        return {
            **end.info,
            "episode": counted if has_counted else statistics,
            "terminal_observation": end.last_obs,
            "TimeLimit.truncated": end.truncated,
        }

    def close(self) -> None:
        """Close all batches."""
        for batch in self.batches:
            batch.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """As ``VecEnv.get_attr``. An attribute of a batched environment itself is returned once per environment."""
        values: list[Any] = []
        for batch, size in zip(self.batches, self.sizes, strict=True):
            call = getattr(batch.env, "call", None)
            if call is not None and all(call("has_wrapper_attr", attr_name)):  # a worker of AsyncVectorEnv ends with an error
                values += call("get_wrapper_attr", attr_name)
            else:
                values += [getattr(batch.env, attr_name)] * size
        return [values[index] for index in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the batched environments, for all of their environments."""
        self._check_all(indices, "set_attr")
        for batch in self.batches:
            if hasattr(batch.env, "call"):  # it would divide a list among the environments
                batch.env.set_attr(attr_name, [value] * batch.env.num_envs)  # type: ignore[attr-defined]
            else:
                setattr(batch.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call a method of each environment, if a batched environment has ``call()``, or once per batch."""
        self._check_all(indices, "env_method")
        results: list[Any] = []
        for batch, size in zip(self.batches, self.sizes, strict=True):
            if hasattr(batch.env, "call") and not hasattr(batch.env, method_name):
                results += batch.env.call(method_name, *args, **kwargs)
            else:
                results += [getattr(batch.env, method_name)(*args, **kwargs)] * size
        return results

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """As ``VecEnv.env_is_wrapped``. Episodes are reported as by a Monitor."""
        return [issubclass(wrapper_class, Monitor)] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[np.ndarray | None]:
        """As ``VecEnv.get_images``."""
        images: list[Any] = [batch.env.render() for batch in self.batches]
        return [image for of_batch in images if of_batch is not None for image in of_batch]

    def _check_all(self, indices: VecEnvIndices, name: str) -> None:
        if indices is not None and len(list(self._get_indices(indices))) != self.num_envs:
            raise ValueError(f"indices must be None for {name}() of batched environments, but it is {indices}")


def _check_differ(simulators: Sequence[Any]) -> None:
    if len(set(map(id, simulators))) < len(simulators):
        raise ValueError("batches must be different environments, but a function has returned the same one twice")
    configs = [env.config for env in simulators if isinstance(getattr(env, "config", None), dict)]  # of EnvPool
    seeds = [config["seed"] for config in configs if "seed" in config]
    if len(set(map(str, seeds))) < len(seeds):
        warnings.warn(
            f"environments of EnvPool with the same seed make the same episodes, and those of the batches have {seeds}. Give "
            "each its own: envpool.make_gymnasium(..., seed=random.randrange(2**31))",
            stacklevel=3,
        )


register_vec_env(VectorVecEnv, ["reset_infos", "episode_returns", "episode_lengths", "inactive", "only_reset"], ["batches"])
