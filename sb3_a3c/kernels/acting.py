"""One step of a worker: actions, values and log probabilities of what its environments observe."""

import math

from sb3_a3c.kernels.distributions import clip, sample
from sb3_a3c.kernels.jit import kernel
from sb3_a3c.kernels.network_table import ACTION_KIND, ACTOR, CRITIC, STATE_DEPENDENT
from sb3_a3c.kernels.networks import features, forward, hidden_of, inputs_of, latent_of_actor
from sb3_a3c.kernels.state_dependent_noise import sample_state_dependent


@kernel
def act(
    network, limits, vector, rng, noise, obs, step, observations, actions, clipped_actions, values, log_probs, kept, workspace
):
    """
    Sample an action for each environment, and predict the value of its observation. Writes one row of a rollout.

    :param network: The table of the network
    :param limits: The activation's parameter, the lowest actions, the highest actions
    :param vector: The parameters, ``(size,)``
    :param rng: Read and written: the random generator's state
    :param noise: What :func:`~sb3_a3c.kernels.state_dependent_noise.draw_noise` has written, for gSDE
    :param obs: ``(n_envs, n_obs)``, or the networks' inputs (see :data:`CRITIC_INPUTS`)
    :param step: The row to write
    :param observations: Written, ``(n_steps, n_envs, n_obs)``
    :param actions: Written, ``(n_steps, n_envs, n_actions)``
    :param clipped_actions: Written: the actions within their limits, of the same shape
    :param values: Written, ``(n_steps, n_envs)``
    :param log_probs: Written, ``(n_steps, n_envs)``
    :param kept: Written: the outputs of all layers, for :func:`~sb3_a3c.kernels.gradient.gradient`
    :param workspace: Overwritten
    :return: -1 if all is well; ``env`` if the observation of that environment is outside of its space; ``n_envs + env`` if
        the actor's outputs for that environment are not finite
    """
    n_envs = obs.shape[0]
    for env in range(n_envs):
        for i in range(obs.shape[1]):
            observations[step, env, i] = obs[env, i]
    inputs, room, trouble = features(network, obs.reshape(obs.size), n_envs, workspace)
    x, head, hidden = inputs, workspace, kept
    first_row, n_all = step * n_envs, values.size
    for is_actor in (False, True):
        net = network[ACTOR] if is_actor else network[CRITIC]
        x, hidden = inputs_of(network, net, inputs, n_envs), hidden_of(network, net, kept, n_all)
        head = forward(network, net, vector, limits[0], x, hidden, first_row, n_envs, n_all)
        if not is_actor:
            for env in range(n_envs):
                values[step, env] = head[env]
    n_outputs = head.size // n_envs
    outputs = workspace[room : room + head.size]
    for i in range(head.size):
        outputs[i] = head[i]  # a copy, because logits are overwritten
    latent = latent_of_actor(network, x, hidden, first_row, n_envs, n_all)
    n_latent = latent.size // n_envs
    for env in range(n_envs):
        part = outputs[env * n_outputs : (env + 1) * n_outputs]
        if network[ACTION_KIND] == STATE_DEPENDENT:
            matrix = noise[(env + 1) * n_latent * n_outputs : (env + 2) * n_latent * n_outputs]
            latent_row = latent[env * n_latent : (env + 1) * n_latent]
            log_probs[step, env] = sample_state_dependent(noise, matrix, latent_row, part, actions[step, env])
        else:
            log_probs[step, env] = sample(network, limits, vector, rng, part, actions[step, env])
        if trouble < 0 and not math.isfinite(log_probs[step, env]):
            trouble = n_envs + env
    clip(limits, actions[step], clipped_actions[step])
    return trouble


@kernel
def predict_values(network, limits, vector, observations, values, workspace):
    """
    :param network: The table of the network
    :param limits: The activation's parameter, and more
    :param vector: The parameters, ``(size,)``
    :param observations: ``(n, n_obs)``
    :param values: Written: ``V(s)``, ``(n,)``
    :param workspace: Overwritten
    :return: The first row whose observation is outside of its space, or -1
    """
    n_rows = observations.shape[0]
    inputs, room, invalid_row = features(network, observations.reshape(observations.size), n_rows, workspace)
    x = inputs_of(network, network[CRITIC], inputs, n_rows)
    value = forward(network, network[CRITIC], vector, limits[0], x, workspace[room:], 0, n_rows, n_rows)
    for row in range(n_rows):
        values[row] = value[row]
    return invalid_row
