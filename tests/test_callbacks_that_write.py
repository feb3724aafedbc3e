"""What callbacks write acts as it does in A2C, and never undoes the workers' updates."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from test_identity import assert_equal_to_the_bit, learned

from sb3_a3c import A3C, NonFiniteError, register_vec_env
from sb3_a3c.policies.hooks import module_hooks, step_hooks

N_STEPS = 400
BACKENDS = [
    pytest.param(dict(backend="serial"), id="serial"),
    pytest.param(dict(backend="thread"), id="thread"),
    pytest.param(dict(backend="process"), id="process"),
    pytest.param(dict(backend="ray"), id="ray", marks=pytest.mark.slow),
]


class Writes(BaseCallback):
    """Calls a function at each end of a rollout, or at each step, with the number of the call."""

    def __init__(self, write: Callable[["Writes", int], Any], at: str = "rollout end") -> None:
        super().__init__()
        self.write = write
        self.at = at
        self.n_rollouts = 0

    def _on_training_start(self) -> None:
        if self.at == "training start":
            self.write(self, 0)

    def _on_rollout_start(self) -> None:
        if self.at == "rollout start":
            self.n_rollouts += 1
            self.write(self, self.n_rollouts)

    def _on_step(self) -> bool:
        return not (self.at == "step" and self.write(self, self.n_calls) is False)

    def _on_rollout_end(self) -> None:
        if self.at == "rollout end":
            self.n_rollouts += 1
            self.write(self, self.n_rollouts)


def shift_log_std(callback: Writes, n: int) -> None:
    with th.no_grad():
        callback.model.policy.log_std.sub_(0.001)


def replace_weights(callback: Writes, n: int) -> None:
    """With memory of their own, not in place."""
    weight = callback.model.policy.action_net.weight
    if n % 7 == 0:
        weight.data = weight.data * 0.9


def set_parameters(callback: Writes, n: int) -> None:
    model = callback.model
    if n == 10:
        callback.kept = {key: _clone(value) for key, value in model.get_parameters().items()}  # type: ignore[attr-defined]
    if n % 20 == 0:
        model.set_parameters(_clone(callback.kept))  # type: ignore[attr-defined]  # A2C's optimizer would write to ours


def _clone(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clone(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_clone(entry) for entry in value]
    return value.clone() if isinstance(value, th.Tensor) else value


def halve_statistics(callback: Writes, n: int) -> None:
    for state in callback.model.policy.optimizer.state.values():
        for name, value in state.items():
            if name != "step":
                value.mul_(0.5)


def forget_statistics(callback: Writes, n: int) -> None:
    if n % 15 == 0:
        callback.model.policy.optimizer.state.clear()


def set_options(callback: Writes, n: int) -> None:
    (group,) = callback.model.policy.optimizer.param_groups
    group["eps"], group["weight_decay"] = 1e-3, 0.01
    if "betas" in group:
        group["betas"] = (0.5, 0.9)


def write_advantages(callback: Writes, n: int) -> None:
    callback.model.rollout_buffer.advantages *= 2.0


def replace_returns(callback: Writes, n: int) -> None:
    buffer = callback.model.rollout_buffer
    buffer.returns = buffer.returns + 1.0


def write_observations(callback: Writes, n: int) -> None:
    callback.model.rollout_buffer.observations[:, :, 0] = 0.0


def write_rewards(callback: Writes, n: int) -> None:
    callback.locals["rewards"][:] *= 0.1


def write_local_variables(callback: Writes, n: int) -> None:
    if n % 3 == 0:
        callback.locals["values"][:] += 0.5
        callback.locals["actions"][:] *= 0.5
        callback.locals["log_probs"][:] = 0.0


def freeze_and_unfreeze(callback: Writes, n: int) -> None:
    if n in (10, 25):
        callback.model.policy.action_net.requires_grad_(n == 25)
    if n == 20:
        callback.model.policy.log_std.requires_grad_(False)


def double(param: th.Tensor) -> None:
    param.grad *= 2.0


def hook(callback: Writes, n: int) -> None:
    policy = callback.model.policy
    if n == 10:
        callback.handle = policy.action_net.weight.register_hook(lambda grad: 0 * grad)  # type: ignore[attr-defined]
        policy.value_net.bias.register_hook(lambda grad: grad.clamp(-0.1, 0.1))
        policy.log_std.register_post_accumulate_grad_hook(double)
    if n == 30:
        callback.handle.remove()  # type: ignore[attr-defined]


def set_hyperparameters(callback: Writes, n: int) -> None:
    callback.model.ent_coef = 0.01 * (n % 3)
    callback.model.vf_coef = 0.3
    callback.model.max_grad_norm = 0.1


def anneal(callback: Writes, n: int) -> None:
    buffer = callback.model.rollout_buffer
    callback.model.gamma = buffer.gamma = 0.99 - 0.001 * n
    buffer.gae_lambda = 0.9


def reset_environments(callback: Writes, n: int) -> None:
    if n % 3 == 0:
        callback.training_env.env_method("reset", seed=n)


def begin_anew(callback: Writes, n: int) -> None:
    model = callback.model
    if n % 3 == 0:
        model._last_obs, model._last_episode_starts = callback.training_env.reset(), np.ones(2, dtype=bool)


def read_buffer(callback: Writes, n: int) -> None:
    """``get()`` flattens the arrays of the buffer."""
    policy = callback.model.policy
    for batch in callback.model.rollout_buffer.get(5):
        policy.evaluate_actions(batch.observations, batch.actions)
    shift_log_std(callback, n)


def do_not_bootstrap(callback: Writes, n: int) -> None:
    for info in callback.locals["infos"]:
        info["TimeLimit.truncated"] = False


def count_more(callback: Writes, n: int) -> None:
    callback.model.num_timesteps += 3


def stop(callback: Writes, n: int) -> bool:
    return n < 53


WRITES: dict[str, tuple[Callable[[Writes, int], Any], str]] = {
    "log_std": (shift_log_std, "rollout end"),
    "weights replaced": (replace_weights, "rollout end"),
    "set_parameters": (set_parameters, "rollout end"),
    "statistics of the optimizer": (halve_statistics, "rollout end"),
    "no statistics": (forget_statistics, "rollout end"),
    "options of the optimizer": (set_options, "rollout end"),
    "advantages": (write_advantages, "rollout end"),
    "returns replaced": (replace_returns, "rollout end"),
    "observations": (write_observations, "rollout end"),
    "rewards": (write_rewards, "step"),
    "values, actions, log_probs": (write_local_variables, "step"),
    "requires_grad": (freeze_and_unfreeze, "rollout end"),
    "hooks": (hook, "rollout end"),
    "discount factor and lambda": (anneal, "rollout end"),
    "hyperparameters within a rollout": (set_hyperparameters, "step"),
    "stop within a rollout": (stop, "step"),
    "environments before a rollout": (reset_environments, "rollout start"),
    "log_std before a rollout": (shift_log_std, "rollout start"),
    "reset after a rollout": (begin_anew, "rollout end"),
    "get() of the rollout buffer": (read_buffer, "rollout end"),
    "num_timesteps": (count_more, "rollout end"),
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "rmsprop": {},
    "adam": dict(use_rms_prop=False),
    "adamw": dict(policy_kwargs=dict(optimizer_class=th.optim.AdamW)),
}


def make(algorithm: type[A2C | A3C], n_envs: int = 2, wrap: Callable[[VecEnv], VecEnv] = lambda venv: venv, **kwargs: Any):
    np.random.seed(2)
    env = wrap(make_vec_env("Pendulum-v1", n_envs, seed=3))
    return algorithm("MlpPolicy", env, **{"seed": 1, "device": "cpu", **kwargs})


def compare_with_a2c(write: Callable, at: str, n: int = N_STEPS, **kwargs: Any) -> A3C:
    one_worker = dict(n_workers=1, engine="torch")
    runs, models = [], []
    for algorithm, own in ((A2C, {}), (A3C, one_worker)):
        model = make(algorithm, **own, **kwargs)
        model.learn(n, callback=Writes(write, at))
        run = learned(model)
        if at == "step" and write is stop:  # its environments have gone on to the rollout's end
            run = {"parameters": run["parameters"], "num_timesteps": run["num_timesteps"], "n_updates": run["n_updates"]}
        runs.append(run)
        models.append(model)
    assert_equal_to_the_bit(runs[1], runs[0])
    untouched = make(A2C, **kwargs)
    untouched.learn(n)
    assert not th.equal(vector(untouched), vector(models[0]))  # what was written has made a difference
    return models[1]


def vector(model: A2C | A3C) -> th.Tensor:
    return th.cat([param.detach().flatten() for param in model.policy.parameters()])


@pytest.mark.parametrize(
    "optimizer", [pytest.param(name, marks=[pytest.mark.slow] if name == "adamw" else []) for name in OPTIMIZERS]
)
@pytest.mark.parametrize("name", WRITES)
def test_one_worker_does_what_a2c_does(name: str, optimizer: str) -> None:
    write, at = WRITES[name]
    if optimizer != "rmsprop" and at == "step":
        pytest.skip("the optimizer does not matter to it")
    compare_with_a2c(write, at, **OPTIMIZERS[optimizer])


def test_a_truncation_that_a_callback_takes_back_is_not_bootstrapped() -> None:
    compare_with_a2c(do_not_bootstrap, "step", n=1_000)


def forget_returns(callback: Writes, n: int) -> None:
    callback.training_env.returns = np.zeros(2)  # type: ignore[attr-defined]


def test_state_of_a_wrapper() -> None:
    compare_with_a2c(forget_returns, "rollout end", wrap=VecNormalize)


def set_statistics(callback: Writes, n: int) -> None:
    normalize: Any = callback.training_env
    if n % 3 == 0:
        normalize.obs_rms = copy.deepcopy(normalize.obs_rms)
        normalize.obs_rms.mean = normalize.obs_rms.mean + 0.1
        normalize.ret_rms.var *= 2.0
        normalize.ret_rms.count = 10.0


@pytest.mark.parametrize("at", ["rollout start", "rollout end"])
@pytest.mark.parametrize("write", [set_statistics, begin_anew])
def test_normalization_statistics_of_one_worker(write: Callable, at: str) -> None:
    """A reset counts observations, too."""
    compare_with_a2c(write, at, wrap=VecNormalize)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_environments_and_policy_can_not_be_replaced_within_a_run(n_workers: int) -> None:
    model, other = make(A3C, n_workers=n_workers), make_vec_env("Pendulum-v1", 2)
    env, envs, mine = model.env, list(other.envs), list(model.env.envs)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=r"env must not be set by a callback: .* Call set_env\(\) between"):
        model.learn(100, Writes(lambda callback, n: callback.model.set_env(other), "rollout end"))
    assert other.envs == envs and env.envs == mine  # type: ignore[attr-defined]
    model.learn(100, reset_num_timesteps=False)
    policy = make(A2C, seed=7).policy
    with pytest.raises(RuntimeError, match="policy must not be replaced by a callback: "):
        model.learn(100, Writes(lambda callback, n: setattr(callback.model, "policy", policy), "rollout end"))


def test_hooks_and_frozen_parameters_of_before() -> None:
    """Set before learn() is called: hooks of parameters, a hook of a module, and a parameter that is frozen."""
    runs = []
    for algorithm, own in ((A2C, {}), (A3C, dict(n_workers=1, engine="torch"))):
        model, calls = make(algorithm, use_rms_prop=False, **own), []
        policy = model.policy
        policy.action_net.weight.register_hook(lambda grad: 0 * grad)
        policy.mlp_extractor.policy_net[0].register_forward_hook(lambda *args, calls=calls: calls.append(args[2].sum().item()))
        policy.value_net.weight.requires_grad_(False)
        model.learn(N_STEPS)
        runs.append({**learned(model), "calls": calls})
    assert_equal_to_the_bit(runs[1], runs[0])
    assert len(runs[0]["calls"]) > 100


class Unused(ActorCriticPolicy):
    """A policy with a parameter that no loss depends on."""

    def _build(self, lr_schedule: Any) -> None:
        self.unused = th.nn.Parameter(th.ones(3))
        super()._build(lr_schedule)


@pytest.mark.parametrize("optimizer_class", [th.optim.RMSprop, th.optim.AdamW, th.optim.SGD])
def test_a_parameter_without_a_gradient_does_not_decay(optimizer_class: type[th.optim.Optimizer]) -> None:
    policy_kwargs = dict(optimizer_class=optimizer_class, optimizer_kwargs=dict(weight_decay=0.1))
    runs = []
    for algorithm, own in ((A2C, {}), (A3C, dict(n_workers=1)), (A3C, dict(n_workers=2, backend="thread"))):
        env = make_vec_env("Pendulum-v1", 2, seed=3)
        model = algorithm(Unused, env, seed=1, policy_kwargs=policy_kwargs, learning_rate=1e-2, **own).learn(200)
        assert model.policy.unused.tolist() == [1.0, 1.0, 1.0]
        runs.append(learned(model))
    assert_equal_to_the_bit(runs[1], runs[0])


class LastBatchTwice(RolloutBuffer):
    """Its samples have the last one twice."""

    def get(self, batch_size: int | None = None):
        for data in super().get(batch_size):
            yield type(data)(*(th.cat([column, column[-1:]]) for column in data))


def test_samples_of_an_own_rollout_buffer() -> None:
    runs = []
    for algorithm, own in ((A2C, {}), (A3C, dict(n_workers=1))):
        model = make(algorithm, rollout_buffer_class=LastBatchTwice, **own)
        runs.append(learned(model.learn(N_STEPS)))
    assert_equal_to_the_bit(runs[1], runs[0])
    with pytest.raises(ValueError, match=r"LastBatchTwice has its own get\(\)"):
        make(A3C, rollout_buffer_class=LastBatchTwice, engine="fused")
    make(A3C, rollout_buffer_class=LastBatchTwice, n_workers=2).learn(40)


class InTwoBatches(RolloutBuffer):
    def get(self, batch_size: int | None = None):
        yield from super().get(self.buffer_size * self.n_envs // 2)


def test_samples_in_several_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"get\(\) must give all samples as one batch, but InTwoBatches.get\(\) gave 2"):
        make(A3C, rollout_buffer_class=InTwoBatches, n_steps=8).learn(100)


class Scaled(VecEnvWrapper):
    """A wrapper with a number that callbacks may set."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.scale = 1.0

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        return obs, (rewards * self.scale).astype(np.float32), dones, infos


register_vec_env(Scaled)


def set_switches(callback: Writes, n: int) -> None:
    if n == 20:
        callback.training_env.training = False
        callback.training_env.norm_reward = False
    if n == 30:
        callback.training_env.clip_obs = 0.5
        callback.training_env.venv.scale = 0.1


@pytest.mark.parametrize("engine", ["torch", "fused"])
@pytest.mark.parametrize("own", [*BACKENDS, pytest.param(dict(n_workers=1), id="one worker")])
def test_switches_of_wrappers_are_followed(own: dict[str, Any], engine: str) -> None:
    """With several workers, from each worker's next rollout on."""
    models = []
    for algorithm, kwargs in ((A2C, {}), (A3C, dict(n_workers=2, max_lead=0, engine=engine) | own)):
        model = make(algorithm, wrap=lambda venv: VecNormalize(Scaled(venv)), **kwargs)
        models.append(model.learn(N_STEPS, callback=Writes(set_switches)))
    counts = [model.get_vec_normalize_env().obs_rms.count for model in models]
    if "backend" in own:
        # A worker may have begun one rollout more with the old switches, and the main thread sees those of max_lead + 1.
        assert counts[0] <= counts[1] <= counts[0] + 2 * 2 * 5
    elif engine == "torch":
        assert_equal_to_the_bit(learned(models[1]), learned(models[0]))
    assert counts[0] == pytest.approx(20 * 5 * 2 + 2, abs=1e-3)
    (normalize,) = {model.get_vec_normalize_env() for model in models[1:]}
    assert not normalize.training and normalize.clip_obs == 0.5 and normalize.venv.scale == 0.1


@pytest.mark.parametrize("engine", ["torch", "fused"])
@pytest.mark.parametrize("own", BACKENDS)
def test_writing_does_not_undo_updates(own: dict[str, Any], engine: str) -> None:
    """What a callback adds at each rollout is there in the end, and so is what the workers have learned."""

    def write(callback: Writes, n: int) -> None:
        with th.no_grad():
            callback.model.policy.log_std.sub_(0.01)

    n_rollouts = 100
    model = make(A3C, n_envs=4, engine=engine, use_rms_prop=False, **own)
    start = {name: param.detach().clone() for name, param in model.policy.named_parameters()}
    model.learn(n_rollouts * 4 * 5, callback=Writes(write))
    moved = {name: (param - start[name]).detach() for name, param in model.policy.named_parameters()}
    assert model._n_updates == 4 * n_rollouts
    assert {int(state["step"]) for state in model.policy.optimizer.state.values()} == {4 * n_rollouts}
    # Adam's steps are of 7e-4 and less: 400 of them move log_std by 0.28 at most.
    assert moved["log_std"].item() == pytest.approx(-0.01 * n_rollouts, abs=0.3)
    assert moved["value_net.bias"].abs().item() > 0.1
    assert moved["action_net.weight"].abs().max() > 0.004


@pytest.mark.parametrize("own", BACKENDS)
@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_frozen_parameters_stay_with_several_workers(own: dict[str, Any], engine: str) -> None:
    """Frozen in mid-run, under Adam, whose momentum would move them; and with a hook that makes a gradient zero."""
    kept = {}

    def write(callback: Writes, n: int) -> None:
        policy = callback.model.policy
        if n == 5:
            policy.action_net.requires_grad_(False)
        if n == 30:  # by now each worker has seen that
            kept.update({name: param.detach().clone() for name, param in policy.action_net.named_parameters()})

    model = make(A3C, engine=engine, use_rms_prop=False, max_lead=0, **own)
    model.policy.value_net.bias.register_hook(lambda grad: 0 * grad)
    bias = model.policy.value_net.bias.item()
    model.learn(N_STEPS * 2, callback=Writes(write))
    assert kept and all(th.equal(param, kept[name]) for name, param in model.policy.action_net.named_parameters())
    assert model.policy.value_net.bias.item() == bias
    assert int(model.policy.optimizer.state[model.policy.action_net.bias]["step"]) < model._n_updates


@pytest.mark.parametrize("own", [*BACKENDS[1:], pytest.param(dict(backend="process", n_workers=1), id="one worker")])
def test_hooks_that_log_are_called_for_each_update(own: dict[str, Any]) -> None:
    """As Weights & Biases does. In other processes it can't, which a warning says; the run is none the worse for it."""
    logged: list[str] = []
    lock = __import__("threading").Lock()  # such as a logger has; it can't be pickled

    def log(name: str) -> Callable[[th.Tensor], None]:
        def hook(grad: th.Tensor) -> None:
            with lock:
                logged.append(name)

        return hook

    model = make(A3C, engine="torch", **own)
    names = [name for name, _ in model.policy.named_parameters()]
    for name, param in model.policy.named_parameters():
        param.register_hook(log(name))
    if own["backend"] == "thread" or "n_workers" in own:
        model.learn(200)
        assert len(logged) == len(names) * model._n_updates
    else:
        with pytest.warns(UserWarning, match=r"a hook of parameter .* is not called by the workers: it can't be pickled"):
            model.learn(200)
        assert not logged
    assert model._n_updates == (20 if "n_workers" in own else 40)


@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_parameters_have_the_gradient_of_the_last_update(engine: str) -> None:
    """Callbacks log its norm. With several workers no gradient comes to the main thread."""
    runs = []
    for algorithm, own in ((A2C, {}), (A3C, dict(n_workers=1, engine=engine))):
        norms: list[float] = []

        def note(callback: Writes, n: int, norms: list[float] = norms) -> None:
            grads = [param.grad for param in callback.model.policy.parameters()]
            norms.append(0.0 if grads[0] is None else float(th.cat([grad.flatten() for grad in grads]).norm()))

        make(algorithm, max_grad_norm=1.5, **own).learn(200, callback=Writes(note))
        runs.append(norms)
    assert len(runs[0]) == len(runs[1]) == 20 and runs[1][0] == 0.0
    assert max(runs[1]) == pytest.approx(1.5, rel=1e-4)
    if engine == "torch":
        np.testing.assert_allclose(runs[1], runs[0], rtol=1e-6)  # the same numbers, summed up in another order


class NeedsTheMainProcess:
    """A hook that can be pickled and fails in another process, as that of Weights & Biases does."""

    started = False

    def __call__(self, *args: Any) -> None:
        if not self.started:
            raise AttributeError("'NoneType' object has no attribute 'FloatTensor'")


def test_hooks_that_fail_in_another_process_are_not_called_there() -> None:
    NeedsTheMainProcess.started = True
    try:
        model = make(A3C, engine="torch", backend="process")
        model.policy.log_std.register_hook(NeedsTheMainProcess())
        model.policy.action_net.register_forward_hook(NeedsTheMainProcess())
        change = Writes(lambda callback, n: setattr(callback.model, "ent_coef", 0.001 * n))  # so they are sent again
        with pytest.warns(UserWarning) as told:
            model.learn(200, callback=change)
    finally:
        NeedsTheMainProcess.started = False
    assert model._n_updates == 40
    texts = [str(warning.message) for warning in told]
    assert len(texts) == 2
    for owner in ("parameter log_std", "module action_net"):
        assert any(f"a hook of {owner} is not called by the workers: it fails in another process" in text for text in texts)


@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_writing_to_a_rollout_with_several_workers_is_told(engine: str) -> None:
    for write, at, names in (
        (write_rewards, "step", r"locals\['rewards'\]"),
        (write_advantages, "rollout end", "rollout_buffer.advantages"),
    ):
        model = make(A3C, n_workers=2, engine=engine)
        with pytest.warns(UserWarning, match=f"a callback has written to {names} of a rollout. With 2 workers"):
            model.learn(100, callback=Writes(write, at))


def test_reading_is_not_taken_for_writing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(A3C, n_workers=2).learn(100, callback=Writes(lambda callback, n: callback.locals["rewards"].sum(), "step"))


def test_a_parameter_that_is_not_finite_is_refused() -> None:
    def write(callback: Writes, n: int) -> None:
        with th.no_grad():
            callback.model.policy.action_net.bias[0] = float("nan")

    for own in (dict(n_workers=1), dict(n_workers=2)):
        with pytest.raises(
            NonFiniteError, match=r"parameter action_net\.bias must be finite, but a callback has set it to nan"
        ):
            make(A3C, **own).learn(100, callback=Writes(write))


def set_nan(bias: th.Tensor) -> None:
    bias[0] = float("nan")


def replace_by_nan(bias: th.Tensor) -> None:
    bias.data = th.full_like(bias, float("nan"))


def fail(bias: th.Tensor) -> None:
    raise LookupError


@pytest.mark.parametrize("n_workers", [1, 2])
@pytest.mark.parametrize("write", [set_nan, replace_by_nan])
def test_a_parameter_that_is_not_finite_is_dropped(write: Callable[[th.Tensor], None], n_workers: int) -> None:
    """The model is then what it is after an error of a callback that has written nothing."""
    vectors = []
    for spoil, error in ((write, NonFiniteError), (fail, LookupError)):

        def at_rollout_end(callback: Writes, n: int, spoil: Callable[[th.Tensor], None] = spoil) -> None:
            if n == 5:
                with th.no_grad():
                    spoil(callback.model.policy.action_net.bias)

        model = make(A3C, n_workers=n_workers, backend="serial")
        start = vector(model).clone()
        with pytest.raises(error):
            model.learn(1000, callback=Writes(at_rollout_end))
        vectors.append(vector(model))
        assert not th.equal(vectors[-1], start)
    assert th.equal(*vectors)
    assert model.learn(100).num_timesteps == 100


def test_an_option_that_can_not_be_followed_is_told() -> None:
    def write(callback: Writes, n: int) -> None:
        callback.model.policy.optimizer.param_groups[0]["momentum"] = 0.1  # it needs another statistic

    with pytest.warns(UserWarning, match="changed the policy's optimizer to RMSprop with the options .*'momentum': 0.1"):
        make(A3C, n_workers=2).learn(100, callback=Writes(write))


def test_the_names_of_torch_that_hooks_are_read_from() -> None:
    """Private; checked against torch 2.13."""
    weight, module = th.nn.Parameter(th.zeros(1)), th.nn.Linear(1, 1)
    assert weight._backward_hooks is None and weight._post_accumulate_grad_hooks is None
    weight.register_hook(print)
    weight.register_post_accumulate_grad_hook(print)
    module.register_forward_hook(print)
    module.register_forward_pre_hook(print)
    module.register_full_backward_hook(print)
    module.register_full_backward_pre_hook(print)
    assert list(weight._backward_hooks.values()) == list(weight._post_accumulate_grad_hooks.values()) == [print]
    assert module_hooks(module) == [print] * 4
    optimizer = th.optim.SGD([weight])
    optimizer.register_step_pre_hook(print)
    optimizer.register_step_post_hook(print)
    assert step_hooks(optimizer) == [print] * 2
