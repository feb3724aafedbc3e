"""The CPU is used unless a GPU is asked for. On a GPU, threads learn and callbacks see its tensors. Processes are refused."""

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_a3c import A3C

GPU = "cuda"
needs_gpu = pytest.mark.skipif(not th.cuda.is_available(), reason="no GPU")
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are trying to run .* on the GPU:UserWarning"),
    pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk:UserWarning"),
]


@pytest.mark.parametrize("verbose", [0, 1])
@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize("available", [True, False])
def test_a_gpu_that_is_not_used_is_told_of(
    available: bool, device: str, verbose: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(th.cuda, "is_available", lambda: available)
    model = A3C("MlpPolicy", "CartPole-v1", device=device, verbose=verbose)
    assert model.device == th.device("cpu")
    told = "A GPU is available, but A3C uses the CPU; pass device='cuda' to use it" in capsys.readouterr().out
    assert told == (available and device == "auto" and verbose == 1)


def test_several_processes_on_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"device must be 'cpu' with several workers and backend 'process', but it is 'cuda'"):
        A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2), device="cuda", backend="process")
    model = A3C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2))
    model.backend, model.device = "process", th.device("cuda")
    with pytest.raises(ValueError, match="device must be 'cpu' with several workers"):
        model.learn(20)


class Images(gym.Env):
    observation_space = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: int) -> Any:
        return self._observe(), float(action), False, bool(self.np_random.random() < 0.1), {}

    def _observe(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (36, 36, 1), dtype=np.uint8)


class Looks(BaseCallback):
    """Looks at all tensors, and saves the model in the middle of the run."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def _on_step(self) -> bool:
        tensors = [self.locals[name] for name in ("obs_tensor", "values", "log_probs")]
        if "lstm_states" in self.locals:
            tensors += [*self.locals["lstm_states"].pi, *self.locals["lstm_states"].vf]
        assert {tensor.device.type for tensor in [*tensors, *self.model.policy.parameters()]} == {GPU}
        if self.num_timesteps == 40:
            self.model.save(self.path)
        return True


CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "MLP": ("MlpPolicy", "CartPole-v1", dict(normalize_advantage=True)),
    "gSDE": ("MlpPolicy", "Pendulum-v1", dict(use_sde=True, sde_sample_freq=2, std_scale=0.5)),
    "Adam, Hogwild": ("MlpPolicy", "Pendulum-v1", dict(use_rms_prop=False, use_locking=False)),
    "bounded, two learning rates": ("BoundedMlpPolicy", "Pendulum-v1", dict(vf_learning_rate=1e-3)),
    "CNN": ("CnnPolicy", Images, {}),
    "LSTM": ("MlpLstmPolicy", "CartPole-v1", {}),
}


@needs_gpu
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n_workers", [1, 2])
@pytest.mark.parametrize("backend", ["serial", "thread"])
def test_it_learns_and_is_saved_and_loaded(backend: str, n_workers: int, case: str, tmp_path: Path) -> None:
    policy, env, kwargs = CASES[case]
    venv = make_vec_env(env, n_envs=4, seed=0)
    model = A3C(policy, venv, device=GPU, backend=backend, n_workers=n_workers, seed=0, **kwargs)
    before = [param.cpu().clone() for param in model.policy.parameters()]
    model.learn(80, Looks(tmp_path / "model"), log_interval=1)
    assert any((param.cpu() != old).any() for param, old in zip(model.policy.parameters(), before, strict=True))
    for device in (GPU, "cpu"):
        loaded = A3C.load(tmp_path / "model", venv, device=device).learn(20)
        assert {param.device.type for param in loaded.policy.parameters()} == {device}
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps == 100


class Writes(BaseCallback):
    """Changes the values of a step."""

    def _on_step(self) -> bool:
        self.locals["values"] += 1.0
        return True


@needs_gpu
@pytest.mark.parametrize("callback", [None, Writes])
def test_one_worker_is_a2c(callback: type[BaseCallback] | None) -> None:
    """Up to rounding. What callbacks write into tensors has the same effect."""
    models = []
    for algorithm in (A2C, partial(A3C, n_workers=1)):
        venv = make_vec_env("CartPole-v1", n_envs=2, seed=0)
        model = algorithm("MlpPolicy", venv, device=GPU, seed=0, learning_rate=1e-2)
        models.append(model.learn(100, callback and callback()))
    for mine, theirs in zip(*(model.policy.parameters() for model in models), strict=True):
        np.testing.assert_allclose(mine.numpy(force=True), theirs.numpy(force=True), rtol=1e-3, atol=1e-5)


@needs_gpu
def test_an_optimizer_that_is_stepped_as_a_whole() -> None:
    class Clips(th.optim.SGD):
        """Its steps depend on all elements of a parameter."""

        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for param in group["params"]:
                    if param.grad is not None:
                        param.data.sub_(group["lr"] * param.grad / (1.0 + param.grad.norm()))

    venv = make_vec_env("CartPole-v1", n_envs=2, seed=0)
    model = A3C("MlpPolicy", venv, device=GPU, policy_kwargs=dict(optimizer_class=Clips), use_rms_prop=False)
    before = [param.cpu().clone() for param in model.policy.parameters()]
    model.learn(100)
    assert any((param.cpu() != old).any() for param, old in zip(model.policy.parameters(), before, strict=True))
