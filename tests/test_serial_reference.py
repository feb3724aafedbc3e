"""Several workers in turn compute what the algorithm says, written down here a second time, and repeat to the last bit."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_a3c import A3C

N_WORKERS, N_STEPS, GAMMA, LR = 3, 5, 0.99, 7e-4


def make_model(n_workers: int = N_WORKERS, **kwargs) -> A3C:
    env = make_vec_env("CartPole-v1", n_envs=N_WORKERS, seed=0)
    return A3C("MlpPolicy", env, n_workers=n_workers, backend="serial", seed=4, ent_coef=0.01, **kwargs)


def reference(model: A3C, n_rollouts: int) -> th.Tensor:
    """A3C on CartPole in numpy and torch: pull, collect, gradient, shared RMSProp; each worker in turn."""
    theta = dict(model.policy.named_parameters())
    square_avg = {name: th.zeros_like(param) for name, param in theta.items()}
    envs = make_vec_env("CartPole-v1", n_envs=N_WORKERS, seed=0).envs
    model.set_random_seed(model.seed)
    entropy = int(np.random.randint(0, np.iinfo(np.uint32).max, dtype=np.uint32))
    generators = []
    for seed in np.random.SeedSequence(entropy, spawn_key=(0,)).spawn(N_WORKERS):
        _, noise = seed.spawn(2)
        generators.append(th.Generator().manual_seed(int(noise.generate_state(1, np.uint64)[0] >> 1)))
    observations = [env.reset(seed=model.seed + index)[0] for index, env in enumerate(envs)]
    network = type(model.policy)(model.observation_space, model.action_space, lambda _: LR)
    for _ in range(n_rollouts):
        for worker, env in enumerate(envs):
            network.load_state_dict(theta)  # theta' <- theta
            rows, dones, rewards = [], [], []
            for _ in range(N_STEPS):
                rows.append(th.as_tensor(observations[worker])[None])
                with th.no_grad():
                    probs = network.get_distribution(rows[-1]).distribution.probs
                    action = th.multinomial(probs, 1, True, generator=generators[worker])
                rows[-1] = (rows[-1], action.flatten())
                observations[worker], reward, terminated, truncated, _ = env.step(action.item())
                rewards.append(reward)
                dones.append(terminated or truncated)
                assert not truncated, "the run is too short for it"
                if dones[-1]:
                    observations[worker] = env.reset()[0]
            values, log_probs, entropies = network.evaluate_actions(th.cat([r[0] for r in rows]), th.cat([r[1] for r in rows]))
            with th.no_grad():
                value = network.predict_values(th.as_tensor(observations[worker])[None]).item()
            returns = []
            for reward, done in zip(reversed(rewards), reversed(dones), strict=True):
                value = reward + GAMMA * value * (1 - done)
                returns.insert(0, value)
            advantages = th.tensor(returns) - values.detach().flatten()
            value_loss = ((th.tensor(returns) - values.flatten()) ** 2).mean()
            loss = -(advantages * log_probs).mean() - 0.01 * entropies.mean() + 0.5 * value_loss
            gradients = th.autograd.grad(loss, list(network.parameters()))
            scale = min(1.0, 0.5 / (float(th.cat([g.flatten() for g in gradients]).norm()) + 1e-6))
            for (name, param), gradient in zip(theta.items(), gradients, strict=True):
                square_avg[name] = 0.99 * square_avg[name] + 0.01 * (scale * gradient) ** 2
                param.data = param.data - LR * scale * gradient / (square_avg[name].sqrt() + 1e-5)
    return th.cat([param.detach().flatten() for param in theta.values()])


def vector(model: A3C) -> th.Tensor:
    return th.cat([param.detach().flatten() for param in model.policy.parameters()])


def test_equals_a_plain_reference() -> None:
    n_rollouts = 20
    expected = reference(make_model(), n_rollouts)
    actual = vector(make_model(engine="torch").learn(n_rollouts * N_WORKERS * N_STEPS))
    # The same numbers in another order of float32 operations; RMSProp's first steps enlarge the last digit's noise.
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-4, atol=2e-5)
    start = vector(make_model())
    assert (actual - start).abs().max() > 100 * 2e-5  # far more has been learned than the tolerance lets through


@pytest.mark.parametrize("engine", ["torch", "fused"])
@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_repeats_to_the_last_bit(n_workers: int, engine: str) -> None:
    first, second = (make_model(n_workers, engine=engine).learn(300) for _ in range(2))
    assert th.equal(vector(first), vector(second))
    returns = [[info["r"] for info in model.ep_info_buffer] for model in (first, second)]
    assert returns[0] == returns[1] != []


@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_workers_draw_differently_from_each_other_and_from_their_own_past(engine: str) -> None:
    """Environments that all look alike, so that only the workers' noise can tell them apart."""
    env = make_vec_env("Pendulum-v1", n_envs=2)
    model = A3C("MlpPolicy", env, backend="serial", engine=engine, learning_rate=0.0, seed=0)
    actions: list[np.ndarray] = []
    for _ in range(2):
        model.learn(10, callback=lambda locals_, _: actions.append(locals_["actions"] - 0) or True)
    noise = np.concatenate(actions).flatten()
    assert len(np.unique(noise)) == len(noise)


def test_a_loaded_run_continued_twice_is_the_same_run_twice(tmp_path) -> None:
    make_model().learn(150).save(tmp_path / "model")
    runs = []
    for _ in range(2):
        model = A3C.load(tmp_path / "model", env=make_vec_env("CartPole-v1", n_envs=N_WORKERS, seed=0))
        runs.append(vector(model.learn(150, reset_num_timesteps=False)))
    assert th.equal(*runs)
