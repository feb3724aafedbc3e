"""The shared parameters: no update is lost with locks, staleness is counted, Hogwild still learns, optimizers are torch's."""

import multiprocessing
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import update_learning_rate

from sb3_a3c.backends.process.parcel import pack, unpack
from sb3_a3c.envs.normalization import JournaledMeanStd
from sb3_a3c.learning.policy_sync import PolicySync
from sb3_a3c.parameters.flat_optimizer import FlatOptimizer
from sb3_a3c.parameters.layout import Layout
from sb3_a3c.parameters.optimizers import WholeOptimizer, kept_of_vectors
from sb3_a3c.parameters.protocol import Push
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.system.memory import Memory, share_together


@pytest.fixture
def tiny_switch_interval() -> Iterator[None]:
    """Let threads take turns as often as possible, so that races show."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def make_policy(optimizer_class: type[th.optim.Optimizer] = th.optim.RMSprop, **optimizer_kwargs) -> ActorCriticPolicy:
    th.manual_seed(0)
    return ActorCriticPolicy(
        spaces.Box(-1, 1, (3,)),
        spaces.Box(-1, 1, (2,)),
        lambda _: 1e-3,
        net_arch=[7],
        optimizer_class=optimizer_class,
        optimizer_kwargs=optimizer_kwargs,
    )


def save(parameters: SharedParameters, policy: ActorCriticPolicy) -> None:
    """Write parameters and statistics into a policy and its optimizer."""
    sync = PolicySync(policy, parameters)
    sync.open()
    sync.refresh(None)
    sync.close()


def assert_counted(moments: np.ndarray, observed: np.ndarray) -> None:
    """SB3 begins with a ten thousandth of an observation of mean 0 and variance 1."""
    np.testing.assert_allclose(moments[:2], [observed.mean(), observed.var()], rtol=1e-6)
    assert moments[2] == pytest.approx(len(observed) + 1e-4, abs=1e-9)


def push_from_threads(parameters: SharedParameters, gradient: th.Tensor, n_threads: int, n_pushes: int) -> None:
    """Each thread pushes the same gradient several times, at learning rate 1, and counts observations."""
    start = threading.Barrier(n_threads)

    def work(thread: int) -> None:
        rms = JournaledMeanStd(RunningMeanStd(shape=(1,)))
        rng = np.random.default_rng(thread)
        start.wait()
        for _ in range(n_pushes):
            rms.update(rng.normal(thread, 2.0, size=(5, 1)))
            parameters.push(gradient, Push((1.0, 1.0), 5, (), [rms.take_journal()]))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_no_update_is_lost_with_locks(tiny_switch_interval: None) -> None:
    """Plain SGD adds up: after 16 x 500 pushes of -1/8192, each parameter has moved by exactly their sum."""
    policy = make_policy(th.optim.SGD)
    layout = Layout(policy)
    parameters = SharedParameters(policy, layout, [RunningMeanStd(shape=(1,))])
    for view in layout.views(parameters.vector):
        view.zero_()
    gradient = layout.flatten([th.full(shape, -1 / 8192) for shape in layout.shapes])
    push_from_threads(parameters, gradient, n_threads=16, n_pushes=500)
    assert parameters.n_updates == 16 * 500
    assert parameters.num_timesteps == 16 * 500 * 5
    for view in layout.views(parameters.vector):
        assert th.all(view == 16 * 500 / 8192)  # sums of a power of two are exact in float32


def push_from_a_process(content: bytes, handles: list, process: int) -> None:
    parameters: SharedParameters = unpack(content, handles)
    rms = JournaledMeanStd(RunningMeanStd(shape=(1,)))
    rng = np.random.default_rng(process)
    gradient = parameters.layout.flatten([th.full(shape, -1 / 8192) for shape in parameters.layout.shapes])
    for _ in range(500):
        rms.update(rng.normal(process, 2.0, size=(2, 1)))
        parameters.push(gradient, Push((1 / 8192, 1 / 8192), 5, (), [rms.take_journal()]))


@pytest.mark.parametrize("start_method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_no_update_is_lost_between_processes(start_method: str) -> None:
    """RMSprop without memory and eps makes steps of the learning rate, whatever the gradient, so they add up."""
    policy = make_policy(th.optim.RMSprop, alpha=0.0, eps=0.0)
    layout = Layout(policy)
    parameters = SharedParameters(policy, layout, [RunningMeanStd(shape=(1,))])
    parameters.share_memory()
    for view in layout.views(parameters.vector):
        view.zero_()
    parcel = pack(parameters)
    context = multiprocessing.get_context(start_method)
    processes = [
        context.Process(target=push_from_a_process, args=(parcel.content, parcel.handles, process))  # type: ignore[attr-defined]
        for process in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert parameters.n_updates == 4 * 500 and parameters.num_timesteps == 4 * 500 * 5
    for view in layout.views(parameters.vector):
        assert th.all(view == 4 * 500 / 8192)
    observed = np.concatenate([np.random.default_rng(seed).normal(seed, 2.0, size=(1000, 1)) for seed in range(4)])
    assert_counted(parameters.moments[0], observed)
    save(parameters, policy)
    assert all(state["step"] == 2000 for state in policy.optimizer.state.values())


def test_statistics_are_exact_under_threads(tiny_switch_interval: None) -> None:
    policy = make_policy()
    layout = Layout(policy)
    parameters = SharedParameters(policy, layout, [RunningMeanStd(shape=(1,))])
    push_from_threads(parameters, th.zeros(layout.size), n_threads=8, n_pushes=200)
    observed = np.concatenate([np.random.default_rng(thread).normal(thread, 2.0, size=(1000, 1)) for thread in range(8)])
    assert_counted(parameters.moments[0], observed)


@pytest.mark.parametrize("use_locking", [True, False])
def test_pushes_are_counted(use_locking: bool, tiny_switch_interval: None) -> None:
    policy = make_policy()
    layout = Layout(policy)
    parameters = SharedParameters(policy, layout, [RunningMeanStd(shape=(1,))], use_locking=use_locking)
    before = parameters.vector.clone()
    push_from_threads(parameters, layout.flatten([th.ones(s) for s in layout.shapes]), n_threads=8, n_pushes=50)
    assert parameters.n_updates == 400
    assert all(th.all(view < 0) for view in layout.views(parameters.vector - before))  # Hogwild may lose some, not all
    save(parameters, policy)
    assert all(state["step"] == 400 for state in policy.optimizer.state.values())


def test_a_pull_sees_the_vector_between_two_updates(tiny_switch_interval: None) -> None:
    """One thread pushes steps that keep all parameters equal. In what others pull, they must be equal too."""
    policy = make_policy(th.optim.SGD)
    layout = Layout(policy)
    parameters = SharedParameters(policy, layout)
    parameters.vector.zero_()
    done = threading.Event()
    torn: list[th.Tensor] = []

    def pull() -> None:
        vector = th.empty(layout.size)
        while not done.is_set():
            parameters.pull(vector, ())
            if len({float(view.min()) for view in layout.views(vector)} | {float(v.max()) for v in layout.views(vector)}) != 1:
                torn.append(vector.clone())

    threads = [threading.Thread(target=pull) for _ in range(4)]
    for thread in threads:
        thread.start()
    gradient = layout.flatten([th.ones(shape) for shape in layout.shapes])
    for _ in range(300):
        parameters.push(gradient, Push((1.0, 1.0), 1))
    done.set()
    for thread in threads:
        thread.join()
    assert not torn


def test_staleness_in_a_made_up_schedule() -> None:
    """Three workers pull; then 0, 1, 0, 2 push, where 0 pulls again in between: staleness 0, 1, 1, 3."""
    policy = make_policy()
    layout = Layout(policy)
    parameters = SharedParameters(policy, layout)
    vector, gradient = th.empty(layout.size), th.zeros(layout.size)
    pulled = {worker: parameters.pull(vector, ()).n_updates for worker in range(3)}
    staleness = []
    for worker in (0, 1, 0, 2):
        staleness.append(parameters.push(gradient, Push((1e-3, 1e-3), 5)).n_updates - pulled[worker] - 1)
        pulled[worker] = parameters.pull(vector, ()).n_updates
    assert staleness == [0, 1, 1, 3]
    assert parameters.num_timesteps == 20


class NormalizedSGD(th.optim.SGD):
    """An optimizer that does not compute each element on its own."""

    @th.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in [param for param in group["params"] if param.grad is not None]:
                param -= group["lr"] * param.grad / param.grad.norm()


class Lion(th.optim.Optimizer):
    """An optimizer that torch does not have, which computes each element on its own."""

    def __init__(self, params, lr: float = 1e-3) -> None:
        super().__init__(params, dict(lr=lr))

    @th.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in [param for param in group["params"] if param.grad is not None]:
                exp_avg = self.state[param].setdefault("exp_avg", th.zeros_like(param))
                param -= group["lr"] * (0.9 * exp_avg + 0.1 * param.grad).sign()
                exp_avg.lerp_(param.grad, 0.01)


OPTIMIZERS = {
    "rmsprop": (th.optim.RMSprop, dict(alpha=0.9, eps=1e-5), FlatOptimizer),
    "centered rmsprop with momentum": (th.optim.RMSprop, dict(centered=True, momentum=0.5), FlatOptimizer),
    "rmsprop as in tensorflow": (RMSpropTFLike, dict(alpha=0.9, eps=1e-5), FlatOptimizer),
    "adam": (th.optim.Adam, dict(betas=(0.8, 0.99), eps=1e-5), FlatOptimizer),
    "adamw": (th.optim.AdamW, dict(weight_decay=1e-3, amsgrad=True), FlatOptimizer),
    "nadam": (th.optim.NAdam, {}, FlatOptimizer),
    "sgd": (th.optim.SGD, dict(weight_decay=1e-3), FlatOptimizer),
    "sgd with momentum": (th.optim.SGD, dict(momentum=0.9, nesterov=True), FlatOptimizer),
    "adagrad": (th.optim.Adagrad, {}, FlatOptimizer),
    "lion": (Lion, {}, FlatOptimizer),
    "adafactor": (th.optim.Adafactor, {}, WholeOptimizer),
    "normalized sgd": (NormalizedSGD, {}, WholeOptimizer),
}


def assert_steps_as_torch_does(
    policy: ActorCriticPolicy, twin: ActorCriticPolicy, optimizer_class: type, use_locking: bool = True
) -> None:
    """From a fresh optimizer, and from one that has stepped, with a parameter that is left out once."""
    layout = Layout(policy)
    for _ in range(2):
        parameters = SharedParameters(policy, layout, use_locking=use_locking)
        assert type(parameters.optimizer) is optimizer_class
        for step in range(4):
            without_gradient = (3,) if step == 1 else ()
            grads = [th.randn(shape) * 10.0**step for shape in layout.shapes]
            learning_rate = 1e-3 / (1 + step)
            parameters.push(layout.flatten(grads), Push((learning_rate, learning_rate), 1, without_gradient=without_gradient))
            for index, (param, grad) in enumerate(zip(twin.parameters(), grads, strict=True)):
                param.grad = None if index in without_gradient else grad.clone()
            update_learning_rate(twin.optimizer, learning_rate)
            twin.optimizer.step()
        save(parameters, policy)
        for param, twin_param in zip(policy.parameters(), twin.parameters(), strict=True):
            assert th.equal(param, twin_param)
            state, twin_state = policy.optimizer.state.get(param, {}), twin.optimizer.state.get(twin_param, {})
            assert list(state) == list(twin_state)
            assert all(th.equal(th.as_tensor(state[key]), th.as_tensor(twin_state[key])) for key in state)


@pytest.mark.parametrize("use_locking", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_step_as_torch_does(name: str, use_locking: bool) -> None:
    """Parameters and state, to the last bit."""
    optimizer_class, options, expected_class = OPTIMIZERS[name]
    policy, twin = make_policy(optimizer_class, **options), make_policy(optimizer_class, **options)
    assert_steps_as_torch_does(policy, twin, expected_class, use_locking)


@pytest.mark.parametrize("optimizer_class", [th.optim.Adam, NormalizedSGD])
def test_groups_with_different_options(optimizer_class: type[th.optim.Optimizer]) -> None:
    """Biases without weight decay, and log_std in no group."""
    policies = [make_policy(optimizer_class) for _ in range(2)]
    for policy in policies:
        weights = [param for param in policy.parameters() if param.ndim == 2]
        biases = [param for name, param in policy.named_parameters() if param.ndim == 1 and name != "log_std"]
        groups = [dict(params=weights, weight_decay=0.1), dict(params=biases)]
        policy.optimizer = optimizer_class(groups, lr=1e-3)  # type: ignore[call-arg]
    assert_steps_as_torch_does(*policies, FlatOptimizer if optimizer_class is th.optim.Adam else WholeOptimizer)


def test_trying_an_optimizer_leaves_no_trace() -> None:
    policy = make_policy(th.optim.SGD)
    policy.optimizer.register_step_post_hook(lambda *_: pytest.fail("a hook was called"))
    generator, before = th.get_rng_state(), str(policy.optimizer.state_dict())
    assert kept_of_vectors(policy.optimizer, th.zeros(1)) == {}
    assert th.equal(th.get_rng_state(), generator) and str(policy.optimizer.state_dict()) == before


@pytest.mark.parametrize("separate_critic", [False, True])
@pytest.mark.parametrize("name", ["rmsprop", "rmsprop as in tensorflow", "adam"])
def test_compiled_code_steps_as_torch_does(name: str, separate_critic: bool) -> None:
    """To float32 rounding: after 20 updates of 1e-3 or so, parameters differ by less than 1e-6."""
    optimizer_class, options, _ = OPTIMIZERS[name]
    policies = [make_policy(optimizer_class, **options) for _ in range(2)]
    layout = Layout(policies[0], separate_critic)
    runs = [
        SharedParameters(policy, layout, compiled=compiled) for policy, compiled in zip(policies, (True, False), strict=True)
    ]
    assert [parameters.optimizer.compiled for parameters in runs] == [True, False]
    start, pulled = runs[0].vector.clone(), th.empty(layout.size)
    for step in range(20):
        gradient = layout.flatten([th.randn(shape) for shape in layout.shapes])
        for parameters in runs:
            parameters.push(gradient, Push((1e-3, 3e-3), 1, without_gradient=(2,) if step == 9 else ()))
    runs[0].pull(pulled, ())
    assert th.equal(pulled, runs[0].vector)
    assert (pulled - start).abs().max() > 1e-2
    th.testing.assert_close(pulled, runs[1].vector, rtol=1e-6, atol=1e-6)
    for parameters, policy in zip(runs, policies, strict=True):
        save(parameters, policy)
    states = [policy.optimizer.state_dict()["state"] for policy in policies]
    th.testing.assert_close(states[0], states[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("optimizer_class", [th.optim.RMSprop, th.optim.NAdam])
def test_the_critic_learns_at_a_rate_of_its_own(optimizer_class: type[th.optim.Optimizer]) -> None:
    policy, twin = make_policy(optimizer_class), make_policy(optimizer_class)
    critic = [p for n, p in twin.named_parameters() if "value_net" in n]
    actor = [p for n, p in twin.named_parameters() if "value_net" not in n]
    assert len(critic) == 4 and len(actor) == 5
    optimizer = optimizer_class([dict(params=actor, lr=1e-3), dict(params=critic, lr=1e-2)])
    layout = Layout(policy, separate_critic=True)
    parameters = SharedParameters(policy, layout)
    for _ in range(3):
        grads = {name: th.randn(param.shape) for name, param in twin.named_parameters()}
        parameters.push(layout.flatten([grads[name] for name in layout.names]), Push((1e-3, 1e-2), 1))
        for name, param in twin.named_parameters():
            param.grad = grads[name]
        optimizer.step()
    save(parameters, policy)
    for param, twin_param in zip(policy.parameters(), twin.parameters(), strict=True):
        assert th.equal(param, twin_param)


def test_a_critic_without_parameters_of_its_own_is_refused() -> None:
    policy = make_policy()
    policy.value_net.requires_grad_(False)
    policy.mlp_extractor.value_net.requires_grad_(False)
    with pytest.raises(ValueError, match="vf_learning_rate needs a critic with parameters of its own"):
        Layout(policy, separate_critic=True)


def test_parameters_of_two_types_are_refused() -> None:
    policy = make_policy()
    policy.value_net.double()
    with pytest.raises(ValueError, match="must all be of one type on one device"):
        Layout(policy)


def test_an_optimizer_that_is_sent_to_a_process_holds_no_kernel() -> None:
    """A kernel that is pickled arrives without its machine code, and each process would compile it again."""
    policy = make_policy()
    parameters = SharedParameters(policy, Layout(policy, separate_critic=False), compiled=True)
    assert parameters.optimizer.compiled
    sent = unpack(pack(parameters.optimizer).content, [])
    assert not [name for name, value in vars(sent).items() if hasattr(value, "signatures")]


@pytest.mark.parametrize("other", [1.0, -0.0, float("nan")])
def test_memory_is_copied_and_compared_as_torch_does_it(other: float) -> None:
    memory, copy = Memory(th.tensor([0.0, other])), Memory(th.full((2,), 7.0))
    assert not memory.equals(copy)
    copy.copy_from(memory)
    th.testing.assert_close(copy.tensor, memory.tensor, rtol=0, atol=0, equal_nan=True)
    assert copy.tensor.data_ptr() != memory.tensor.data_ptr()
    assert memory.equals(copy) == th.equal(memory.tensor, copy.tensor)


def test_memory_that_is_shared_together() -> None:
    """It takes one descriptor, and everything stays as it is, whatever its type and its shape."""
    tensors = [
        th.tensor([[1.5, -0.0], [float("nan"), 2.0]]),
        th.tensor(3),
        th.zeros(0),
        th.tensor([True, False, True]),
        th.tensor([1.5], dtype=th.bfloat16),
        th.tensor([2.5], dtype=th.float64),
        th.tensor([[1 + 2j]]),
    ]
    before = [tensor.clone() for tensor in tensors]
    memories = [Memory(th.arange(3)), Memory(th.tensor([0.1, 0.2]))]
    share_together(memories, tensors)
    th.testing.assert_close(tensors, before, rtol=0, atol=0, equal_nan=True)
    assert [memory.array.tolist() for memory in memories] == [[0, 1, 2], th.tensor([0.1, 0.2]).tolist()]
    shared = [*tensors, *(memory.tensor for memory in memories)]
    assert all(tensor.is_shared() and tensor.data_ptr() % 64 == 0 for tensor in shared)
    assert len({tensor.untyped_storage().data_ptr() for tensor in shared}) == 1
    memories[0].array[1] = 7  # the array is the tensor's memory
    assert memories[0].tensor.tolist() == [0, 7, 2]
