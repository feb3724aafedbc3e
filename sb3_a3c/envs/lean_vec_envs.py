"""
Faster equivalents of SB3's VecEnvs, for slices.

If a step of an environment takes 10 us, the overhead of a VecEnv matters: DummyVecEnv makes deep copies of its buffers and of
all infos. Here, each step allocates new arrays, so only values that an environment might change later are copied.
VecNormalize makes many small NumPy calls; here, they are one call of compiled code.
"""

from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

from sb3_a3c.envs.normalization import JournaledMeanStd, contiguous
from sb3_a3c.envs.vector_vec_env import VectorVecEnv
from sb3_a3c.kernels.normalization import normalize, step_rewards

_ZERO = np.zeros(1)
_IMMUTABLE = frozenset({bool, int, float, str, bytes, type(None), np.bool_, np.float32, np.float64, np.int32, np.int64})


class LeanDummyVecEnv(DummyVecEnv):
    """
    A DummyVecEnv that copies less. Infos are copied before the environment is reset, so an environment may return the same
    array at each step.
    """

    #: Whether infos are copied, see :func:`read_infos_at_once`. Those of episodes always are.
    copies_infos = True

    def step_wait(self) -> VecEnvStepReturn:
        """As ``DummyVecEnv.step_wait``."""
        buffers, array = self.buf_obs, None
        if None in buffers:
            buffer = buffers[None]  # type: ignore[index]
            array = np.empty(buffer.shape, buffer.dtype)
        else:
            observations = {key: np.empty(buffer.shape, buffer.dtype) for key, buffer in buffers.items()}
        rewards = np.empty(self.num_envs, np.float32)
        dones = np.empty(self.num_envs, bool)
        infos = []
        for env_idx, env in enumerate(self.envs):
            obs, reward, terminated, truncated, info = env.step(self.actions[env_idx])
            done = terminated or truncated
            info["TimeLimit.truncated"] = truncated and not terminated
            if done:
                info["terminal_observation"] = obs
            infos.append(_copied(info) if done or self.copies_infos or "episode" in info else info)
            if done:
                obs, self.reset_infos[env_idx] = env.reset()
            if array is not None:
                array[env_idx] = obs
            else:
                for key, values in observations.items():
                    values[env_idx] = obs[key]
            rewards[env_idx] = reward
            dones[env_idx] = done
        return dict_to_obs(self.observation_space, observations) if array is None else array, rewards, dones, infos


class LeanVecNormalize(VecNormalize):
    """A VecNormalize of observations that are arrays."""

    obs_rms: RunningMeanStd  # type: ignore[assignment]

    def step_wait(self) -> VecEnvStepReturn:
        """As ``VecNormalize.step_wait``."""
        if not self.training:
            return super().step_wait()
        obs, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(obs, np.ndarray)
        self.old_obs, self.old_reward = obs, rewards
        base = self.unwrapped
        if isinstance(base, VectorVecEnv) and (base.inactive.any() or base.only_reset.any()):
            new_obs, new_rewards = self._step_partly(obs, rewards, dones, ~base.inactive, ~base.only_reset)
        else:
            new_obs, new_rewards = self._step_obs(obs), self._step_rewards(rewards, dones)
        for index in np.flatnonzero(dones) if True in dones.tolist() else ():
            if "terminal_observation" in infos[index]:
                infos[index]["terminal_observation"] = self.normalize_obs(infos[index]["terminal_observation"])
        return new_obs, new_rewards, dones, infos

    def _step_partly(
        self, obs: np.ndarray, rewards: np.ndarray, dones: np.ndarray, counts_obs: np.ndarray, counts_rewards: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A step of which some observations and rewards are not counted: no action is chosen for them or led to them."""
        if self.norm_obs and counts_obs.any():
            self.obs_rms.update(obs[counts_obs])
        self.returns = self.returns * self.gamma + np.where(counts_rewards, rewards, 0)
        if counts_rewards.any():
            self.ret_rms.update(self.returns[counts_rewards])
        self.returns[dones] = 0
        return self.normalize_obs(obs), self.normalize_reward(rewards)

    def _step_obs(self, obs: np.ndarray) -> np.ndarray:
        rms = vars(self).get("obs_rms")
        if not (self.norm_obs and isinstance(rms, JournaledMeanStd) and rms.compiles(obs)):
            if self.norm_obs:
                self.obs_rms.update(obs)
            return self.normalize_obs(obs)
        return rms.update_and_normalize(obs, float(self.epsilon), float(self.clip_obs))

    def _step_rewards(self, rewards: np.ndarray, dones: np.ndarray) -> np.ndarray:
        rms = self.ret_rms
        if not (self.norm_reward and isinstance(rms, JournaledMeanStd) and rms.compiles(rewards)):
            self._update_reward(rewards)
            self.returns[dones] = 0
            return self.normalize_reward(rewards)
        returns, normalized, moments = np.empty(len(rewards)), np.empty(len(rewards), np.float32), np.empty((2, 2, 1))
        step_rewards(
            contiguous(rewards),
            contiguous(dones, bool),
            self.returns,
            float(self.gamma),
            float(rms.mean),
            float(rms.var),
            float(rms.count),
            float(self.epsilon),
            float(self.clip_reward),
            returns,
            normalized,
            *moments,
        )
        self.returns = returns
        rms.note(moments[0], len(rewards), moments[1])
        return normalized

    def normalize_obs(self, obs: Any) -> Any:
        """As ``VecNormalize.normalize_obs``."""
        if not isinstance(obs, np.ndarray):  # lists or numbers, as an environment may return them
            return super().normalize_obs(obs)
        if not self.norm_obs:
            return obs.copy()
        mean, var = self.obs_rms.mean, self.obs_rms.var
        rows = contiguous(obs).reshape(-1, mean.size)
        return normalize(rows, mean.reshape(-1), var.reshape(-1), float(self.epsilon), float(self.clip_obs)).reshape(obs.shape)

    def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """As ``VecNormalize.normalize_reward``."""
        if not self.norm_reward:
            return reward.astype(np.float32)
        var = self.ret_rms.var.reshape(-1)
        return normalize(contiguous(reward).reshape(-1, 1), _ZERO, var, float(self.epsilon), float(self.clip_reward)).reshape(
            -1
        )


def lean_class(venv: VecEnv) -> type[VecEnv]:
    """
    :param venv: A VecEnv to slice
    :return: The class of its slices: a faster equivalent, if there is one
    """
    if type(venv) is DummyVecEnv:
        return LeanDummyVecEnv
    if type(venv) is VecNormalize and isinstance(venv.observation_space, spaces.Box):
        return LeanVecNormalize
    return type(venv)


def read_infos_at_once(venv: VecEnv, at_once: bool) -> None:
    """
    :param venv: A slice
    :param at_once: Whether nobody reads the infos of a step after the next step, unless they are of an episode. Then they are
        not copied, and empty ones are shared, unless there are wrappers that may keep them
    """
    base = _without_normalization(venv)
    if isinstance(base, LeanDummyVecEnv):
        base.copies_infos = not at_once
    elif type(base) is VectorVecEnv:  # a subclass may write into them
        base.shares_empty_info = at_once


def reports_only_ends(venv: VecEnv) -> bool:
    """
    :param venv: A slice
    :return: Whether it is known to report episodes only in the step in which they end
    """
    return type(_without_normalization(venv)) is VectorVecEnv  # a subclass may report more


def _without_normalization(venv: VecEnv) -> VecEnv:
    return venv.venv if isinstance(venv, LeanVecNormalize) else venv


def _copied(info: dict[str, Any]) -> dict[str, Any]:
    """A copy that the environment can't change."""
    if type(info) is not dict:
        return deepcopy(info)
    return {key: value if type(value) in _IMMUTABLE else deepcopy(value) for key, value in info.items()}
