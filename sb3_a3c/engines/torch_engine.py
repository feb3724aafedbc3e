"""The torch engine: A2C's own arithmetic on a clone of the policy. All other engines must compute the same."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from sb3_a3c.engines.hyperparameters import Hyperparameters
from sb3_a3c.engines.kept_outputs import KeptOutputs
from sb3_a3c.engines.policy_calls import FeedForwardCalls, RecurrentCalls
from sb3_a3c.engines.protocol import Action, Losses, State, add_to_buffer, overrides_get, stack
from sb3_a3c.engines.samples import samples_of_actions, samples_of_buffer
from sb3_a3c.parameters.layout import Layout, Vector
from sb3_a3c.policies.copies import clone_policy
from sb3_a3c.policies.hooks import GradientRules
from sb3_a3c.policies.recurrent_states import is_recurrent
from sb3_a3c.system.memory import as_tensor


class TorchEngine:
    """
    Computes any ActorCriticPolicy of SB3, and any recurrent one of sb3_contrib, with torch. See
    :class:`~sb3_a3c.engines.protocol.Engine` for the parameters.
    """

    compiled: ClassVar[bool] = False

    def __init__(
        self,
        policy: ActorCriticPolicy,
        layout: Layout,
        action_space: spaces.Space,
        turn: AbstractContextManager,
        seed: np.random.SeedSequence | None,
    ) -> None:
        self.vector = layout.gather(policy)
        self._policy = clone_policy(policy)
        self._layout = layout
        layout.bind(self._policy, self.vector)
        self.buffers = list(self._policy.buffers())
        self._params = layout.parameters(self._policy)
        self._action_space = action_space
        self._turn = turn
        permutation: Callable[[int], np.ndarray] = np.random.permutation
        #: Whether there are several workers. A single one computes with the operations of A2C alone.
        self._several = seed is not None
        if seed is None:
            self._policy.action_dist = policy.action_dist  # the noise matrices of gSDE are those that callbacks see
        else:
            numpy_seed, torch_seed = seed.spawn(2)
            permutation = np.random.default_rng(numpy_seed).permutation
            generator = th.Generator(device=self._policy.device)
            generator.manual_seed(int(torch_seed.generate_state(1, np.uint64)[0] >> 1))
            _draw_actions_from(generator, self._policy)
        self._calls = (RecurrentCalls if is_recurrent(policy) else FeedForwardCalls)(self._policy, permutation)
        self._kept_outputs = KeptOutputs(self._policy if self._several else None)
        self._rules = GradientRules()
        self._handles: list[RemovableHandle] = []
        self._hyperparameters: Hyperparameters
        self._rollout_buffer: RolloutBuffer
        self._obs: VecEnvObs
        self._episode_starts: np.ndarray
        self._actions: list[Action]

    @property
    def state(self) -> State | None:
        """See :attr:`Engine.state`."""
        return self._calls.state

    @state.setter
    def state(self, state: State | None) -> None:
        self._calls.state = state

    @staticmethod
    def misfit(policy: ActorCriticPolicy, rollout_buffer_class: type[RolloutBuffer] | None = None) -> str | None:
        """See :meth:`Engine.misfit`."""
        if is_recurrent(policy) and rollout_buffer_class is not None and overrides_get(rollout_buffer_class):
            return f"{rollout_buffer_class.__name__} has its own get(), and a recurrent policy learns from whole sequences"
        return None

    @staticmethod
    def drawback(policy: ActorCriticPolicy) -> str | None:
        """See :meth:`Engine.drawback`."""
        return None

    def follow(self, hyperparameters: Hyperparameters) -> None:
        """See :meth:`Engine.follow`."""
        self._hyperparameters = hyperparameters
        if hyperparameters.rules != self._rules:
            self._rules = hyperparameters.rules
            for handle in self._handles:
                handle.remove()
            self._handles = self._rules.impose(self._policy)

    def start_rollout(self, rollout_buffer: RolloutBuffer, hyperparameters: Hyperparameters) -> None:
        """See :meth:`Engine.start_rollout`."""
        self._rollout_buffer = rollout_buffer
        self.follow(hyperparameters)
        self._actions = []
        self._calls.start_rollout()
        self._kept_outputs.start_rollout()
        self._policy.set_training_mode(False)
        if self._policy.use_sde:
            with self._turn:
                self._policy.reset_noise(rollout_buffer.n_envs)

    def act(self, obs: VecEnvObs, episode_starts: np.ndarray, n_steps: int) -> np.ndarray:
        """See :meth:`Engine.act`."""
        sde_sample_freq = self._hyperparameters.sde_sample_freq
        with self._turn, th.no_grad():
            obs_tensor = self._to_tensor(obs)
            if self._policy.use_sde and sde_sample_freq > 0 and n_steps % sde_sample_freq == 0:
                self._policy.reset_noise(self._rollout_buffer.n_envs)
            with self._kept_outputs.acting():
                action_tensor, values, log_probs = self._calls.forward(obs_tensor, episode_starts)
            actions = action_tensor.cpu().numpy()
        clipped_actions = actions
        if isinstance(self._action_space, spaces.Box):
            if self._policy.squash_output:
                clipped_actions = self._policy.unscale_action(actions)
            else:
                clipped_actions = np.clip(actions, self._action_space.low, self._action_space.high)
        self._obs, self._episode_starts = obs, episode_starts
        self._actions.append(Action(obs_tensor, actions, clipped_actions, values, log_probs))
        return clipped_actions

    def actions(self) -> Action:
        """See :meth:`Engine.actions`."""
        return Action(*map(stack, zip(*self._actions, strict=True)))._replace(state=self._calls.states())

    def add(self, rewards: np.ndarray) -> None:
        """See :meth:`Engine.add`."""
        add_to_buffer(self._rollout_buffer, self._obs, self._actions[-1], rewards, self._episode_starts)

    def predict_terminal_values(self, obs: Sequence[VecEnvObs], env_indices: Sequence[int]) -> list[th.Tensor]:
        """See :meth:`Engine.predict_terminal_values`. One by one, as in A2C: the last bits can depend on the batch size."""
        with self._turn, th.no_grad():
            tensors = [self._policy.obs_to_tensor(one)[0] for one in obs]  # type: ignore[arg-type]
            return [self._calls.predict_terminal_value(*one) for one in zip(tensors, env_indices, strict=True)]

    def predict_values(self, obs: VecEnvObs, episode_starts: np.ndarray) -> th.Tensor:
        """See :meth:`Engine.predict_values`."""
        with self._turn, th.no_grad():
            return self._calls.predict_values(self._to_tensor(obs), episode_starts)

    def compute_returns(self, rollout_buffer: RolloutBuffer, last_values: th.Tensor | np.ndarray, dones: np.ndarray) -> None:
        """See :meth:`Engine.compute_returns`."""
        rollout_buffer.compute_returns_and_advantage(last_values=as_tensor(last_values), dones=dones)

    def gradient(self, rollout_buffer: RolloutBuffer, out: Vector, valid: np.ndarray | None = None) -> Losses:
        """See :meth:`Engine.gradient`."""
        assert isinstance(out, th.Tensor)
        with self._turn:
            return self._gradient(rollout_buffer, out, valid)

    def _gradient(self, rollout_buffer: RolloutBuffer, out: th.Tensor, valid: np.ndarray | None) -> Losses:
        """The same operations as in SB3's ``A2C.train``, so that the results are equal to the last bit."""
        hyperparameters = self._hyperparameters
        self._policy.set_training_mode(True)
        values, log_prob, entropy, advantages, returns = self._evaluate(rollout_buffer, valid)
        if hyperparameters.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        policy_loss = -(advantages * log_prob).mean()
        value_loss = F.mse_loss(returns, values.flatten())
        entropy_loss = -th.mean(-log_prob if entropy is None else entropy)
        loss = policy_loss + hyperparameters.ent_coef * entropy_loss + hyperparameters.vf_coef * value_loss

        self._policy.optimizer.zero_grad()  # gradients of other parameters add up, as in A2C
        loss.backward()
        norm = th.nn.utils.clip_grad_norm_(self._policy.parameters(), hyperparameters.max_grad_norm)
        self._layout.flatten([th.zeros_like(p) if p.grad is None else p.grad for p in self._params], out)
        # The norm of a finite gradient can overflow. Then only the gradient itself tells.
        finite = bool(norm.isfinite()) or bool(out.isfinite().all())
        without_gradient = tuple([index for index, param in enumerate(self._params) if param.grad is None])
        return Losses(policy_loss.item(), value_loss.item(), entropy_loss.item(), finite, without_gradient)

    def _evaluate(
        self, rollout_buffer: RolloutBuffer, valid: np.ndarray | None
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None, th.Tensor, th.Tensor]:
        """:return: Values, log probabilities, entropies, advantages and returns of the valid samples."""
        reuses = self._several and rollout_buffer is self._rollout_buffer and len(self._actions) == rollout_buffer.buffer_size
        reuses = reuses and type(rollout_buffer) in (RolloutBuffer, DictRolloutBuffer)
        if reuses:
            samples = samples_of_actions(rollout_buffer, self._actions)
        else:
            samples = samples_of_buffer(rollout_buffer, self._calls.permutation if valid is None else np.arange)
        actions = samples.actions
        if isinstance(self._action_space, spaces.Discrete):
            actions = actions.long().flatten()
        with self._kept_outputs.evaluating() if reuses else nullcontext():
            values, log_prob, entropy = self._calls.evaluate(samples.observations, actions, rollout_buffer)
        advantages, returns = samples.advantages, samples.returns
        if valid is not None:
            rows = th.from_numpy(rollout_buffer.swap_and_flatten(valid).flatten())
            values, log_prob, advantages, returns = values[rows], log_prob[rows], advantages[rows], returns[rows]
            entropy = None if entropy is None else entropy[rows]
        return values, log_prob, entropy, advantages, returns

    def _to_tensor(self, obs: VecEnvObs) -> th.Tensor | dict[str, th.Tensor]:
        tensors = obs_as_tensor(obs, self._policy.device)  # type: ignore[arg-type]
        if not self._several:
            return tensors
        if isinstance(tensors, dict):
            return {key: _copied(tensor) for key, tensor in tensors.items()}
        return _copied(tensors)


def _copied(obs: th.Tensor) -> th.Tensor:
    """A copy whose memory layout is the same in every backend: the last bits of a product depend on strides and alignment."""
    return obs.clone(memory_format=th.channels_last if obs.ndim == 4 else th.contiguous_format)


class _DrawFrom(TorchFunctionMode):
    """Within this context, torch draws from another generator. It affects the current thread only."""

    _random_functions = frozenset({th.normal, th.bernoulli, th.multinomial, th.Tensor.normal_})

    def __init__(self, generator: th.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in self._random_functions:
            kwargs = {**kwargs, "generator": self._generator}
        return func(*args, **kwargs)


def _draw_actions_from(generator: th.Generator, policy: ActorCriticPolicy) -> None:
    """
    Let a policy's action distribution draw from a generator of its own, since torch's is shared by all threads. torch's
    distributions take no generator, and a mode around the whole policy would cost more time than the policy.
    """

    def drawing_from_generator(draw: Callable) -> Callable:
        @wraps(draw)
        def drawn(*args: Any, **kwargs: Any) -> Any:
            with _DrawFrom(generator):
                return draw(*args, **kwargs)

        return drawn

    for name in ("sample", "sample_weights"):
        if hasattr(policy.action_dist, name):
            setattr(policy.action_dist, name, drawing_from_generator(getattr(policy.action_dist, name)))
