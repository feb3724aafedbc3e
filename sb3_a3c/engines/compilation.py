"""Compiles the kernels before a run, or loads what was compiled: by computing with one number of each."""

from pathlib import Path

import numpy as np

import sb3_a3c.engines.kernels as kernels
import sb3_a3c.normalization_kernels as normalization_kernels


def is_compiled() -> bool:
    """
    :return: Whether compiled kernels are in numba's cache; if not, to compile them takes some seconds
    """
    folder = Path(kernels.gradient.stats.cache_path)
    return any(folder.glob("kernels.gradient-*.nbi"))


def compile_kernels() -> None:
    """Let every kernel be ready to run: those of the fused engine, and those of VecNormalize."""
    vector, network = np.ones(2, np.float32), _smallest_network()
    limits = np.array([0, -1, 1], np.float32)
    rng, noise, workspace = np.ones(4, np.uint64), np.zeros(2, np.float32), np.zeros(8, np.float32)
    kernels.draw_noise(network, vector, rng, noise)
    obs = np.zeros((1, 1), np.float32)
    observations, actions, clipped_actions = np.zeros((3, 1, 1, 1), np.float32)
    values, log_probs, rewards, episode_starts, advantages, returns = np.zeros((6, 1, 1), np.float32)
    rows = observations, actions, clipped_actions, values, log_probs
    kernels.act(network, limits, vector, rng, noise, obs, 0, *rows, workspace)
    kernels.predict_values(network, limits, vector, obs, values[0], workspace)
    dones = np.zeros(1, np.float32)
    kernels.returns(rewards, episode_starts, values, values, dones, 1.0, 1.0, advantages, returns)
    gradient = np.zeros(2, np.float32)
    kernels.gradient(
        network, limits, vector, observations, actions, advantages, returns, workspace, gradient, 0.0, 0.5, 0.5, False
    )
    statistics, stepped = np.ones((2, 2), np.float32), np.ones((3, 2), np.float32)
    for elsewhere in (0, 1):  # in place, as Hogwild steps, and elsewhere
        kernels.rmsprop_step(vector, gradient, statistics[0], 0.0, 0.99, 1e-5, *stepped[: 2 * elsewhere])
        kernels.rmsprop_tf_step(vector, gradient, statistics[0], 0.0, 0.99, 1e-5, *stepped[: 2 * elsewhere])
        kernels.adam_step(vector, gradient, *statistics, 0.0, 0.9, 0.999, 1e-5, 1, *stepped[: 3 * elsewhere])
    kernels.copy(vector, gradient)
    _compile_normalization(obs, rewards[0])


def _compile_normalization(obs: np.ndarray, rewards: np.ndarray) -> None:
    mean, var, count = np.zeros(1), np.ones(1), 1.0
    of_obs, of_returns, moments = np.zeros((2, 1), np.float32), np.zeros((2, 1)), np.zeros((2, 1))
    normalization_kernels.step_obs(obs, mean, var, count, 1e-8, 10.0, np.zeros((1, 1), np.float32), of_obs, moments)
    dones, returns = np.zeros(1, bool), np.zeros(1)
    normalization_kernels.step_rewards(
        rewards, dones, returns, 1.0, mean, var, count, 1e-8, 10.0, mean.copy(), rewards.copy(), of_returns, moments
    )
    normalization_kernels.normalize(obs, mean, var, 1e-8, 10.0)
    for batches in (of_obs, of_returns):
        normalization_kernels.count_journal(batches[:1], batches[1:], np.ones(1), mean, var, count)


def _smallest_network() -> np.ndarray:
    """An observation and an action of one number, and a layer with a weight and a bias for the actor and for the critic."""
    table = np.zeros(kernels.N_FIELDS + 1 + kernels.LAYER_FIELDS, np.int64)
    table[[kernels.N_OBS, kernels.N_FEATURES, kernels.N_ACTIONS, kernels.WIDEST, kernels.STD_COLUMNS]] = 1
    table[[kernels.ACTOR, kernels.CRITIC]] = kernels.N_FIELDS
    table[kernels.N_FIELDS :] = 1, 1, 1, 0, 1
    return table
