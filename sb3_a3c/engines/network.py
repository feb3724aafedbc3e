"""Describes a policy to the kernels of the fused engine, or says why they can't compute it."""

from typing import NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

import sb3_a3c.kernels.network_table as fields
from sb3_a3c.engines.encoders import Encoders, read_encoders, sizes_of, why_not_encoders, write_observations
from sb3_a3c.engines.turns import LARGE
from sb3_a3c.kernels.cache import KERNELS
from sb3_a3c.kernels.state_dependent_noise import EPSILON
from sb3_a3c.parameters.layout import Layout
from sb3_a3c.policies.bounded import BoundedGaussianDistribution, BoundedMlpPolicy
from sb3_a3c.policies.hooks import module_hooks
from sb3_a3c.policies.recurrent_states import is_recurrent

_DISTRIBUTIONS = {
    DiagGaussianDistribution: fields.GAUSSIAN,
    CategoricalDistribution: fields.CATEGORICAL,
    MultiCategoricalDistribution: fields.CATEGORICAL,
    BernoulliDistribution: fields.BERNOULLI,
    StateDependentNoiseDistribution: fields.STATE_DEPENDENT,
    BoundedGaussianDistribution: fields.BOUNDED,
}
_WITH_STD = (DiagGaussianDistribution, StateDependentNoiseDistribution)

#: A recurrent policy with at least this many parameters is large. torch computes it one step at a time, also for the gradient.
#: On two cores, with 1 or 8 environments, LSTMs of 256, 512 and 1024 units make 3 to 9, 3 to 6 and 1.4 to 4 times torch's
#: steps/s.
_LARGE_AND_RECURRENT = 5_000_000


class Network(NamedTuple):
    """
    The description of a policy for the kernels.

    :param table: See :mod:`~sb3_a3c.kernels.network_table`
    :param limits: The activation's parameter, the lowest actions, the highest actions
    :param encoders: What makes the networks' inputs from observations, if the policy is recurrent
    """

    table: np.ndarray
    limits: np.ndarray
    encoders: Encoders | None

    @property
    def n_latent(self) -> int:
        """Number of inputs of the actor's last layer."""
        actor = int(self.table[fields.ACTOR])
        return int(self.table[actor + 1 + fields.LAYER_FIELDS * (int(self.table[actor]) - 1)])

    def workspace_size(self, n_rows: int) -> int:
        """
        :param n_rows: The largest number of observations in one call
        :return: Number of elements of the workspace
        """
        features = int(self.table[fields.N_FEATURES]) if self.table[fields.OBS_KIND] == fields.ONE_HOT else 0
        units = max(int(self.table[fields.ACTOR_UNITS]), int(self.table[fields.CRITIC_UNITS]))
        return n_rows * (features + units + 2 * int(self.table[fields.WIDEST]))


def why_not_fused(policy: ActorCriticPolicy) -> str | None:
    """
    :param policy: A policy
    :return: Why the fused engine can't compute the policy. None: it can
    """
    if type(policy) not in (ActorCriticPolicy, BoundedMlpPolicy) and not _is_mlp_lstm(policy):
        return (
            f"the policy is a {type(policy).__name__}, not an ActorCriticPolicy, BoundedMlpPolicy or "
            "RecurrentActorCriticPolicy itself"
        )
    why_not = _why_not_spaces(policy) or (why_not_encoders(policy) if is_recurrent(policy) else None)
    return why_not or _why_not_parts(policy) or _why_not_parameters(policy)


def why_not_faster(policy: ActorCriticPolicy) -> str | None:
    """
    :param policy: A policy that the fused engine can compute
    :return: Why torch is as fast. None: it is not
    """
    if not KERNELS:
        return "NUMBA_DISABLE_JIT is set, and without compilation torch is faster"
    n_parameters = sum(param.numel() for param in policy.parameters())
    if n_parameters < (_LARGE_AND_RECURRENT if is_recurrent(policy) else LARGE):
        return None
    return f"with {n_parameters:,} parameters torch is as fast, and other workers can compute at the same time"


def read_network(policy: ActorCriticPolicy, layout: Layout) -> Network:
    """
    :param policy: A policy that the fused engine can compute
    :param layout: Where each parameter is in a vector
    :return: Its description for the kernels
    """
    starts = {id(param): part.start for param, part in zip(layout.parameters(policy), layout.slices, strict=True)}
    action_space = policy.action_space
    n_actions = get_action_dim(action_space)
    activation, parameter = _activation(policy)
    nets = [_linears(policy.mlp_extractor.policy_net, policy.action_net)]
    nets += [_linears(policy.mlp_extractor.value_net, policy.value_net)]

    table = [0] * fields.N_FIELDS
    encoders = read_encoders(policy, starts) if is_recurrent(policy) else None
    if encoders is None:
        write_observations(table, policy.observation_space)
        table += sizes_of(policy.observation_space)
    else:
        table[fields.OBS_KIND], table[fields.N_OBS] = fields.FLAT, encoders.n_encoders * encoders.n_hidden
        table[fields.CRITIC_INPUTS] = encoders.n_hidden if encoders.n_encoders == 2 else 0
    table[fields.ACTION_KIND] = _DISTRIBUTIONS[type(policy.action_dist)]
    table[fields.N_ACTIONS] = n_actions
    table[fields.ACTION_SIZES] = len(table)
    table += sizes_of(action_space)
    if type(policy.action_dist) in _WITH_STD:
        table[fields.LOG_STD], table[fields.STD_COLUMNS] = starts[id(policy.log_std)], policy.log_std.shape[-1]
    elif isinstance(policy.action_dist, BoundedGaussianDistribution):
        table[fields.CLIP_ACTIONS] = policy.action_dist.clip_actions
    table[fields.ACTIVATION] = activation
    for start, units, linears in zip(
        (fields.ACTOR, fields.CRITIC), (fields.ACTOR_UNITS, fields.CRITIC_UNITS), nets, strict=True
    ):
        table[start], table[units] = len(table), sum(linear.out_features for linear in linears)
        table.append(len(linears))
        for linear in linears:
            table += [linear.in_features, linear.out_features, starts[id(linear.weight)], starts[id(linear.bias)]]
    table[fields.WIDEST] = max(max(linear.in_features, linear.out_features) for linears in nets for linear in linears)

    low, high = np.full(n_actions, -np.inf), np.full(n_actions, np.inf)
    if isinstance(action_space, spaces.Box):
        low, high = action_space.low.flatten(), action_space.high.flatten()
    return Network(np.array(table, dtype=np.int64), np.concatenate([[parameter], low, high]).astype(np.float32), encoders)


def _is_mlp_lstm(policy: ActorCriticPolicy) -> bool:
    if not is_recurrent(policy):
        return False
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy  # an extra

    return type(policy) is RecurrentActorCriticPolicy


def _why_not_spaces(policy: ActorCriticPolicy) -> str | None:
    obs_space, action_space = policy.observation_space, policy.action_space
    if not isinstance(obs_space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return f"observations of {type(obs_space).__name__} spaces need torch"
    if isinstance(obs_space, spaces.Box) and obs_space.dtype == np.uint8 and len(obs_space.shape) == 3:
        return "observations look like images"
    if isinstance(obs_space, spaces.MultiDiscrete) and obs_space.nvec.ndim != 1:
        return "observations are of a MultiDiscrete space with more than one axis"
    if isinstance(obs_space, spaces.Discrete | spaces.MultiDiscrete) and np.any(obs_space.start != 0):
        return f"{type(obs_space).__name__} observations do not start at 0"
    if type(policy.action_dist) not in _DISTRIBUTIONS:
        return f"actions are drawn from a {type(policy.action_dist).__name__}"
    if isinstance(policy.action_dist, StateDependentNoiseDistribution):
        dist = policy.action_dist
        if dist.use_expln or dist.learn_features or dist.bijector is not None or dist.epsilon != EPSILON:
            return "gSDE with use_expln, squash_output, learned features or another epsilon needs torch"
    if isinstance(action_space, spaces.Box) and action_space.dtype != np.float32:
        return f"actions are {action_space.dtype}, not float32"
    if policy.squash_output:
        return "squash_output=True needs torch"
    return None


def _why_not_parts(policy: ActorCriticPolicy) -> str | None:
    extractors = {type(extractor) for extractor in (policy.pi_features_extractor, policy.vf_features_extractor)}
    if extractors != {FlattenExtractor}:
        return f"the features extractor is a {policy.features_extractor_class.__name__}, not a FlattenExtractor"
    if type(policy.mlp_extractor) is not MlpExtractor:
        return f"the mlp_extractor is a {type(policy.mlp_extractor).__name__}, not an MlpExtractor itself"
    if module_hooks(policy):
        return "modules of the policy have hooks"
    try:
        _linears(policy.mlp_extractor.policy_net, policy.action_net)
        _linears(policy.mlp_extractor.value_net, policy.value_net)
        _activation(policy)
    except _Misfit as misfit:
        return str(misfit)
    return None


def _why_not_parameters(policy: ActorCriticPolicy) -> str | None:
    params = list(policy.parameters())
    linears = [module for module in policy.modules() if isinstance(module, nn.Linear)]
    expected = 2 * len(linears) + (type(policy.action_dist) in _WITH_STD)
    expected += sum(4 * module.num_layers for module in policy.modules() if isinstance(module, nn.LSTM))
    if len(params) != expected or any(True for _ in policy.buffers()):
        return "the policy has parameters or buffers of its own, or modules that share theirs"
    if any(param.dtype != th.float32 for param in params):
        return f"parameters are {params[0].dtype}, not float32"
    if any(param.device.type != "cpu" for param in params):
        return f"parameters are on {params[0].device}, not on the CPU"
    return None


class _Misfit(Exception):
    """Why the kernels can't compute a network."""


def _linears(net: nn.Sequential, head: nn.Module) -> list[nn.Linear]:
    """The linear layers of a net and its head."""
    layers = [*net, head]
    if any(type(layer) is not nn.Linear or layer.bias is None for layer in layers[::2]) or len(layers) % 2 == 0:
        raise _Misfit("the networks are not linear layers with activations between them")
    return layers[::2]  # type: ignore[return-value]


def _activation(policy: ActorCriticPolicy) -> tuple[int, float]:
    """The kernels' number of the activation, and its parameter."""
    kinds = {
        _kind(module) for net in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net) for module in [*net][1::2]
    }
    if len(kinds) > 1:
        raise _Misfit("activations differ from layer to layer")
    return kinds.pop() if kinds else (fields.IDENTITY, 0.0)


def _kind(module: nn.Module) -> tuple[int, float]:
    """The derivative is computed from the output, so outputs must have the signs of inputs. Hence no negative slopes."""
    plain = {
        nn.Identity: fields.IDENTITY,
        nn.Tanh: fields.TANH,
        nn.ReLU: fields.RECTIFIER,
        nn.ReLU6: fields.RELU6,
        nn.Sigmoid: fields.SIGMOID,
    }
    if type(module) in plain:
        return plain[type(module)], 0.0
    if type(module) is nn.LeakyReLU and module.negative_slope >= 0:
        return fields.RECTIFIER, float(module.negative_slope)
    if type(module) is nn.ELU and module.alpha >= 0:
        return fields.ELU, float(module.alpha)
    raise _Misfit(f"the activation {module} needs torch")
