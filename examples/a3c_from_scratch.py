"""
A3C (asynchronous advantage actor-critic, https://arxiv.org/abs/1602.01783) in one file, to be read from top to
bottom. It needs torch, gymnasium and numpy, and nothing of this package. docs/from_scratch.rst explains its parts.

    python examples/a3c_from_scratch.py --seed 0
"""

import argparse
import copy
import threading
import time

import gymnasium as gym
import numpy as np
import torch as th
from torch import nn


def make_network(n_inputs: int, n_hidden: int, n_outputs: int) -> nn.Sequential:
    """One hidden layer, with small weights at the start."""
    hidden, output = nn.Linear(n_inputs, n_hidden), nn.Linear(n_hidden, n_outputs)
    for layer in (hidden, output):
        nn.init.normal_(layer.weight, std=0.1)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(hidden, nn.ReLU6(), output)


class ActorCritic(nn.Module):
    """A Gaussian policy for actions between -high and high, and a value function."""

    def __init__(self, n_obs: int, high: th.Tensor) -> None:
        super().__init__()
        self.high = high
        self.actor = make_network(n_obs, 200, 2 * len(high))  # means and standard deviations
        self.critic = make_network(n_obs, 100, 1)

    def policy(self, obs: th.Tensor) -> th.distributions.Normal:
        mean, std = self.actor(obs).chunk(2, dim=-1)
        mean, std = self.high * mean.tanh(), nn.functional.softplus(std) + 1e-4
        return th.distributions.Normal(mean, std, validate_args=False)

    @th.no_grad()
    def value(self, obs: th.Tensor) -> float:
        return self.critic(obs).item()


class Shared:
    """What the workers share. A thread holds the lock while it reads or writes any of it."""

    def __init__(self, network: ActorCritic, args: argparse.Namespace) -> None:
        self.lock = threading.Lock()
        self.network = network
        # Shared RMSProp: one running average of squared gradients, and not one per worker.
        actor = dict(params=network.actor.parameters(), lr=args.actor_lr)
        critic = dict(params=network.critic.parameters(), lr=args.critic_lr)
        self.optimizer = th.optim.RMSprop([actor, critic], alpha=0.99, eps=1e-5)
        n_updates = args.total_timesteps // args.n_steps
        self.schedule = th.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.0, n_updates)
        self.global_step = 0  # T in the paper: the steps of all workers
        self.returns: list[float] = []  # of all finished episodes


class Worker(threading.Thread):
    """A thread that learns in its own environment, with a local copy of the network."""

    def __init__(self, index: int, shared: Shared, args: argparse.Namespace) -> None:
        super().__init__(daemon=True)
        self.shared, self.args = shared, args
        self.local = copy.deepcopy(shared.network)
        self.noise = th.Generator().manual_seed(args.seed + index)
        self.env = gym.make(args.env_id)
        self.obs = th.as_tensor(self.env.reset(seed=args.seed + index)[0])
        self.episode_return = 0.0

    def run(self) -> None:
        while self.pull():
            obs, actions, rewards, ends = self.collect()
            targets = self.compute_targets(rewards, ends)
            self.compute_gradient(obs, actions, targets)
            self.push()

    def pull(self) -> bool:
        """Copy the shared parameters, theta' <- theta. False: all steps have been made."""
        with self.shared.lock:
            self.local.load_state_dict(self.shared.network.state_dict())
            return self.shared.global_step < self.args.total_timesteps

    def collect(self) -> tuple[th.Tensor, th.Tensor, list[float], list[bool]]:
        """Act for n_steps with the local policy. A new episode may begin on the way."""
        obs, actions, rewards, ends = [], [], [], []
        for _ in range(self.args.n_steps):
            with th.no_grad():
                policy = self.local.policy(self.obs)
            noise = th.randn(policy.mean.shape, generator=self.noise)
            action = policy.mean + policy.stddev * noise
            clipped = action.clamp(-self.local.high, self.local.high)
            next_obs, reward, terminated, truncated, _ = self.env.step(clipped.numpy())
            self.episode_return += float(reward)
            obs.append(self.obs)
            actions.append(action)
            rewards.append(self.args.reward_scale * float(reward))
            ends.append(terminated or truncated)
            self.obs = th.as_tensor(next_obs)
            if truncated and not terminated:
                # A time limit does not end the task: what would have followed is worth V(s).
                rewards[-1] += self.args.gamma * self.local.value(self.obs)
            if ends[-1]:
                with self.shared.lock:
                    self.shared.returns.append(self.episode_return)
                self.episode_return = 0.0
                self.obs = th.as_tensor(self.env.reset()[0])
        return th.stack(obs), th.stack(actions), rewards, ends

    def compute_targets(self, rewards: list[float], ends: list[bool]) -> th.Tensor:
        """R <- r + gamma R, backwards from V(s), or from 0 where an episode has ended."""
        target, targets = self.local.value(self.obs), []
        for reward, end in zip(reversed(rewards), reversed(ends), strict=True):
            target = reward + self.args.gamma * (0.0 if end else target)
            targets.append(target)
        return th.tensor(targets[::-1])

    def compute_gradient(self, obs: th.Tensor, actions: th.Tensor, targets: th.Tensor) -> None:
        """The gradient of the actor-critic loss with respect to the local parameters."""
        policy, values = self.local.policy(obs), self.local.critic(obs).squeeze(dim=1)
        advantages = (targets - values).detach()
        policy_loss = -(policy.log_prob(actions).sum(dim=1) * advantages).mean()
        value_loss = (targets - values).square().mean()
        entropy = policy.entropy().sum(dim=1).mean()
        self.local.zero_grad()
        (policy_loss + value_loss - self.args.ent_coef * entropy).backward()
        nn.utils.clip_grad_norm_(self.local.parameters(), self.args.max_grad_norm)

    def push(self) -> None:
        """Step the shared parameters. Other workers may have done so since the pull."""
        with self.shared.lock:
            shared, local = self.shared.network.parameters(), self.local.parameters()
            for theirs, mine in zip(shared, local, strict=True):
                theirs.grad = None if mine.grad is None else mine.grad.clone()
            self.shared.optimizer.step()
            self.shared.schedule.step()
            self.shared.global_step += self.args.n_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="Pendulum-v1", help="an environment with bounded continuous actions")
    parser.add_argument("--seed", type=int, default=0, help="threads push in any order, so runs don't repeat exactly")
    parser.add_argument("--total-timesteps", type=int, default=150_000, help="steps of all workers")
    parser.add_argument("--n-workers", type=int, default=4)
    parser.add_argument("--n-steps", type=int, default=8, help="steps per update (t_max in the paper)")
    parser.add_argument("--actor-lr", type=float, default=5e-4, help="learning rate, decreasing to 0")
    parser.add_argument("--critic-lr", type=float, default=2e-3)
    parser.add_argument("--gamma", type=float, default=0.9)
    parser.add_argument("--ent-coef", type=float, default=0.01)
    parser.add_argument("--max-grad-norm", type=float, default=40.0)
    parser.add_argument("--reward-scale", type=float, default=0.1)
    args = parser.parse_args()

    th.set_num_threads(1)  # workers run in parallel, not torch's operations
    th.manual_seed(args.seed)
    env = gym.make(args.env_id)
    assert isinstance(env.observation_space, gym.spaces.Box)
    assert isinstance(env.action_space, gym.spaces.Box)
    network = ActorCritic(len(env.observation_space.low), th.as_tensor(env.action_space.high))
    shared = Shared(network, args)
    workers = [Worker(index, shared, args) for index in range(args.n_workers)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        while worker.is_alive():
            worker.join(timeout=5.0)  # seconds between two points of the learning curve
            seconds = time.perf_counter() - started
            with shared.lock:
                steps, mean = shared.global_step, np.mean(shared.returns[-50:] or [np.nan])
            curve = f"{steps:7d} steps, {seconds:3.0f} s: mean return of the last 50 episodes {mean:.1f}"
            print(curve, flush=True)


if __name__ == "__main__":
    main()
