"""
Batched environments: Gymnasium's ``VectorEnv`` and EnvPool's, which step many environments in one call.

They differ in what happens when an episode ends (``gymnasium.vector.AutoresetMode``). A :class:`Batch` steps each of them and
returns the same: the observations that the next actions are for, and the last observation of each episode that has ended.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

#: Whether Gymnasium's RecordEpisodeStatistics counts all steps of environments that are reset in the same step.
WRAPPERS_COUNT = tuple(map(int, gym.__version__.split(".")[:2])) >= (1, 4)


class EndOfEpisode(NamedTuple):
    """
    :param env_index: Index of the environment
    :param last_obs: The last observation of the episode
    :param truncated: Whether it has been truncated and has not ended in a terminal state
    :param info: The info of the last step
    """

    env_index: int
    last_obs: Any
    truncated: bool
    info: dict[str, Any]


class BatchStep(NamedTuple):
    """
    One step of all environments of a batch. Arrays have a first axis of ``n_envs``.

    :param obs: The observations that the next actions are for
    :param rewards: The rewards
    :param dones: Whether episodes have ended
    :param inactive: Whether environments will ignore their next action, because they will only be reset
    :param ends: The episodes that have ended
    """

    obs: VecEnvObs
    rewards: np.ndarray
    dones: np.ndarray
    inactive: np.ndarray
    ends: Sequence[EndOfEpisode]


class Batch:
    """
    One batched environment. It is made when it is first used. A pickled batch holds only the function that makes it, so each
    process makes its own.

    :param make: A function that makes it, or a batched environment itself
    """

    def __init__(self, make: Callable[[], VectorEnv] | VectorEnv) -> None:
        if not callable(make) and not isinstance(make, VectorEnv):
            raise TypeError(f"batches must be a list of functions that make batched environments, but one of them is {make!r}")
        self._env = _checked(make) if isinstance(make, VectorEnv) else None
        self._make = None if isinstance(make, VectorEnv) else make

    def __getstate__(self) -> dict[str, Any]:
        if self._make is None:
            raise TypeError(
                f"the batched environment {self._env} can't be sent to another process. Give A3C a function that makes it "
                "instead: A3C(policy, lambda: gymnasium.make_vec(...))"
            )
        return {"_env": None, "_make": self._make}

    @property
    def env(self) -> VectorEnv:
        """The batched environment."""
        if self._env is None:
            assert self._make is not None
            self._env = _checked(self._make())
        return self._env

    @property
    def spaces(self) -> tuple[spaces.Space, spaces.Space]:
        """The spaces of one environment's observations and actions."""
        return self.env.single_observation_space, self.env.single_action_space

    def reset(self, seed: int | None, options: dict[str, Any] | None) -> tuple[VecEnvObs, dict[str, Any]]:
        """
        :param seed: Seed of the first environment
        :param options: Options for all of them
        :return: The first observations, and the infos of all environments in one
        """
        obs, infos = self.env.reset(seed=seed, options=options)
        return _copied(obs), infos

    def step(self, actions: np.ndarray) -> BatchStep:
        """
        :param actions: One per environment
        :return: The results
        """
        env, mode = self.env, self._mode
        obs, rewards, terminated, truncated, infos = env.step(np.asarray(actions, dtype=env.single_action_space.dtype))
        obs = _copied(obs)
        # Simulators written in C or with numba may return numbers, on which "not" computes something else.
        terminated, truncated = np.asarray(terminated, dtype=bool), np.asarray(truncated, dtype=bool)
        dones = terminated | truncated
        inactive = dones.copy() if mode is AutoresetMode.NEXT_STEP else np.zeros(len(dones), dtype=bool)
        ends: list[EndOfEpisode] = []
        if dones.any():
            same_step = mode is AutoresetMode.SAME_STEP
            last_obs, last_infos = (infos["final_obs"], _final_infos(infos)) if same_step else (obs, infos)
            ends = [
                EndOfEpisode(i, entry_of(last_obs, i), not terminated[i], info_of(last_infos, i))
                for i in np.flatnonzero(dones).tolist()
            ]
            if mode is AutoresetMode.DISABLED:
                obs = _copied(env.reset(options=_ResetMask(dones))[0])
        return BatchStep(obs, rewards, dones, inactive, ends)

    def close(self) -> None:
        """Close it. If it is used again and there is a function that makes it, another one is made."""
        env, self._env = self._env, self._env if self._make is None else None
        if env is not None:
            env.close()

    @property
    def _mode(self) -> AutoresetMode:
        return self.env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)


def entry_of(batch: Any, index: int) -> Any:
    """
    :param batch: Arrays with one entry per environment, also in dicts
    :param index: Index of an environment
    :return: Its entry
    """
    if isinstance(batch, dict):
        return {key: entry_of(value, index) for key, value in batch.items()}
    entry = batch[index]
    return entry.copy() if isinstance(entry, np.ndarray) else entry


def info_of(infos: dict[str, Any], index: int) -> dict[str, Any]:
    """
    :param infos: The infos of all environments, as Gymnasium's vector environments return them: ``_key`` tells which
        environments have a value under ``key``
    :param index: Index of an environment
    :return: Its info
    """
    info = {}
    for key, value in infos.items():
        has_value = infos.get(f"_{key}")
        if key.startswith("_") or (has_value is not None and not has_value[index]):
            continue
        if isinstance(value, dict):
            info[key] = info_of(value, index)
        elif isinstance(value, np.ndarray | list | tuple) and np.ndim(value) > 0 and len(value) > index:
            info[key] = value[index]
    return info


def _final_infos(infos: dict[str, Any]) -> dict[str, Any]:
    """The infos of the last step where the environment has been reset in it. Gymnasium's wrappers write beside those."""
    names = ("episode", "_episode") if WRAPPERS_COUNT else ()
    return {**infos.get("final_info", {}), **{key: infos[key] for key in names if key in infos}}


def _checked(env: Any) -> VectorEnv:
    if not isinstance(env, VectorEnv):
        raise TypeError(
            "env must be a function that returns a gymnasium.vector.VectorEnv or an environment of EnvPool, but it "
            f"returned {env!r}. Pass a VecEnv itself, not a function. For a single environment, use make_vec_env of "
            "Stable-Baselines3"
        )
    if not hasattr(env, "single_observation_space"):
        raise TypeError(
            f"env must follow Gymnasium's VectorEnv, but {env!r} has no single_observation_space. For an environment of "
            "SuperSuit, use concat_vec_envs_v1(..., base_class='stable_baselines3')"
        )
    if getattr(env, "is_async", False):
        raise ValueError(
            f"batch_size of an environment of EnvPool must be num_envs={env.num_envs}: A3C steps all environments of a batch "
            "together. For environments that do not wait for each other, use several workers"
        )
    return env


def concat(parts: Sequence[Any], axis: int = 0) -> Any:
    """
    Concatenate what several batches or workers have along the axis of environments.

    :param parts: Arrays, tensors or dicts of them
    :param axis: The axis of environments
    :return: One of the same kind. A single part is returned as it is
    """
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], dict):
        return {key: concat([part[key] for part in parts], axis) for key in parts[0]}
    if isinstance(parts[0], th.Tensor):
        return th.cat(list(parts), dim=axis)
    return np.concatenate(parts, axis=axis)


def concat_steps(steps: Sequence[BatchStep]) -> BatchStep:
    """
    :param steps: One step of each batch
    :return: All of them in one
    """
    if len(steps) == 1:
        return steps[0]
    obs, rewards, dones, inactive, ends = zip(*steps, strict=True)
    offsets = np.cumsum([0, *map(len, dones)]).tolist()
    return BatchStep(
        concat(obs),
        np.concatenate(rewards),
        np.concatenate(dones),
        np.concatenate(inactive),
        [
            end._replace(env_index=offset + end.env_index)
            for offset, of_batch in zip(offsets, ends, strict=False)
            for end in of_batch
        ],
    )


class _ResetMask(dict[str, Any]):
    """
    Options of a reset, whose ``reset_mask`` can be popped several times. Gymnasium's batched environments pop it, so that the
    environments do not get it. Then RecordEpisodeStatistics, a wrapper of them, pops it too, or else it forgets all episodes.

    :param mask: The environments to reset, ``(n_envs,)``
    """

    def __init__(self, mask: np.ndarray) -> None:
        super().__init__(reset_mask=mask)
        self._mask = mask

    def __contains__(self, key: object) -> bool:
        return key == "reset_mask" or super().__contains__(key)

    def pop(self, key: str, *default: Any) -> Any:  # type: ignore[override]
        """As ``dict.pop``, but the mask stays."""
        return super().pop(key, self._mask) if key == "reset_mask" else super().pop(key, *default)


def _copied(obs: VecEnvObs) -> VecEnvObs:
    """A contiguous copy, since a batched environment may return the same array at each step."""
    if isinstance(obs, dict):
        return {key: np.array(array, order="C") for key, array in obs.items()}
    return np.array(obs, order="C")
