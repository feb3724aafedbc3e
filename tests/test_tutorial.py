"""What the tutorial's example computes is what the tutorial says, written down a second time."""

import runpy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TransformReward
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_a3c import A3C

ROOT = Path(__file__).parents[1]
EXAMPLE = runpy.run_path(str(ROOT / "examples/tutorial_pendulum.py"))


class Rollouts(BaseCallback):
    """Keeps what the updates are computed from."""

    def __init__(self) -> None:
        super().__init__()
        self.segments: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self.rewards: list[float] = []

    def _on_rollout_start(self) -> None:
        self.rewards = []

    def _on_step(self) -> bool:
        self.rewards.append(float(self.locals["rewards"][0]))
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer  # type: ignore[attr-defined]
        last_obs = self.locals["infos"][0].get("terminal_observation", self.locals["new_obs"][0])
        self.segments.append((buffer.observations[:, 0], buffer.actions[:, 0], np.array(self.rewards), last_obs))


def network(params: dict[str, th.Tensor], obs: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """``mu``, ``sigma`` and ``v`` for Pendulum, whose actions are up to 2."""
    hidden = (obs @ params["mlp_extractor.policy_net.0.weight"].T + params["mlp_extractor.policy_net.0.bias"]).clamp(0, 6)
    outputs = hidden @ params["action_net.weight"].T + params["action_net.bias"]
    hidden = (obs @ params["mlp_extractor.value_net.0.weight"].T + params["mlp_extractor.value_net.0.bias"]).clamp(0, 6)
    value = hidden @ params["value_net.weight"].T + params["value_net.bias"]
    return 2 * th.tanh(outputs[:, :1]), th.log1p(th.exp(outputs[:, 1:])) + 1e-4, value


def update(params: dict[str, th.Tensor], statistics: dict[str, th.Tensor], segment: tuple[np.ndarray, ...]) -> None:
    """One of the tutorial's, in double precision: targets back to front, two losses, an RMSProp for each."""
    obs, actions, rewards, last_obs = (th.as_tensor(array, dtype=th.float64) for array in segment)
    target = network(params, last_obs[None])[2][0]
    targets = []
    for reward in reversed(rewards):
        target = reward + 0.9 * target
        targets.insert(0, target.detach())
    mu, sigma, value = network(params, obs)
    td = th.stack(targets) - value
    gaussian = th.distributions.Normal(mu, sigma)
    c_loss = (td**2).mean()
    a_loss = -(gaussian.log_prob(actions) * td.detach() + 0.01 * gaussian.entropy()).mean()
    for loss, rate, critic in ((a_loss, 1e-4, False), (c_loss, 1e-3, True)):
        names = [name for name in params if ("value" in name) == critic]
        gradients = th.autograd.grad(loss, [params[name] for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            statistics[name] = 0.9 * statistics[name] + 0.1 * gradient**2
            with th.no_grad():
                params[name] -= rate * gradient / (statistics[name] + 1e-10).sqrt()


@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_updates_are_the_tutorials(engine: str) -> None:
    """Twenty of them, to the end of an episode, whose time limit is no end."""
    env = make_vec_env("Pendulum-v1", wrapper_class=TransformReward, wrapper_kwargs=dict(func=lambda r: (r + 8) / 8))
    model = A3C("BoundedMlpPolicy", env, engine=engine, seed=0, **EXAMPLE["SETTINGS"]["tutorial"])
    params = {name: param.detach().double().requires_grad_() for name, param in model.policy.named_parameters()}
    start = {name: param.detach().clone() for name, param in params.items()}
    statistics = {name: th.ones_like(param) for name, param in params.items()}
    rollouts = Rollouts()
    model.learn(EXAMPLE["MAX_EPISODE_STEPS"], callback=rollouts)
    assert len(rollouts.segments) == 20 and "terminal_observation" in rollouts.locals["infos"][0]
    for segment in rollouts.segments:
        assert (np.abs(segment[1]) <= 2).all() and (np.abs(segment[2]) <= 1.1).all()
        update(params, statistics, segment)
    for name, param in model.policy.named_parameters():
        moved = (params[name] - start[name]).norm()
        assert moved > 0 and (param.detach() - params[name]).norm() < 1e-3 * moved, name


def test_returns_are_the_environments_own_and_averaged(capsys: pytest.CaptureFixture, tmp_path: Any) -> None:
    _, averages = EXAMPLE["train"](0, "tutorial", 2, 3, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    returns = [float(line.split("return ")[1].split(",")[0]) for line in lines[:4]]
    assert len(averages) == 4 and max(returns) < -200  # an episode in each environment more than asked for; not scaled
    expected = returns[0]
    for average, episode_return in zip(averages[1:], returns[1:], strict=True):
        expected = 0.9 * expected + 0.1 * episode_return
        assert average == pytest.approx(expected, abs=1)
    assert isinstance(A3C.load(tmp_path / "seed_0.zip").observation_space, gym.spaces.Box)


def test_tensorboard_gets_the_networks_graph(tmp_path: Any) -> None:
    EXAMPLE["train"](0, "tutorial", 1, 1, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard/seed_0_1"))
    events.Reload()
    graph = events.Graph()
    operations = {node.op for node in graph.node}
    assert {"aten::linear", "aten::hardtanh", "aten::tanh", "aten::softplus"} <= operations, operations
    names = " ".join(node.name for node in graph.node)
    assert "[policy_net]" in names and "[value_net]" in names and "[action_net]" in names
