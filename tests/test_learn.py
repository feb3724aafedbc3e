"""What learn() promises with several workers: exact counts, whole callbacks, A2C's log keys and our own."""

import csv
import itertools
import threading
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_a3c import A3C
from sb3_a3c.system.cores import usable_cores

BACKENDS = ["serial", "thread", "process"]


def make_model(n_envs: int = 4, env_id: str = "CartPole-v1", **kwargs: Any) -> A3C:
    return A3C("MlpPolicy", make_vec_env(env_id, n_envs=n_envs, seed=0), seed=0, **kwargs)


def read_csv(path: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


class Counter(BaseCallback):
    """Counts calls, and steps as the callbacks of SB3 count them."""

    def __init__(self) -> None:
        super().__init__()
        self.rollouts, self.seen, self.envs = 0, [], []  # type: ignore[var-annotated]

    def _on_step(self) -> bool:
        assert threading.current_thread() is threading.main_thread()
        assert self.locals["rewards"].shape == (self.training_env.num_envs,)
        assert len(self.locals["infos"]) == self.training_env.num_envs
        self.seen.append(self.num_timesteps)
        self.envs.append(self.locals["env_indices"])
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        assert buffer.full and buffer.rewards.shape == (self.model.n_steps, self.training_env.num_envs)
        np.testing.assert_allclose(buffer.returns, buffer.advantages + buffer.values, rtol=1e-6)
        self.rollouts += 1


@pytest.mark.parametrize("rollout_order", ["env", "arrival"])
@pytest.mark.parametrize(
    ("backend", "n_envs", "n_workers"),
    [(backend, *shape) for backend in ("serial", "thread") for shape in ((4, 4), (5, 2), (3, 2), (7, 3), (4, 1))]
    + [pytest.param("process", 5, 2, marks=pytest.mark.slow), ("process", 4, 1)],
)
def test_num_timesteps_is_what_a2cs_would_be(backend: str, n_envs: int, n_workers: int, rollout_order: Any) -> None:
    model = make_model(n_envs, backend=backend, n_workers=n_workers, rollout_order=rollout_order)
    twin = A2C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=n_envs, seed=0))
    for total, reset in ((101, True), (1, False), (n_envs * 5, False), (333.0, True)):
        counter, twin_counter = Counter(), Counter.__new__(Counter)
        BaseCallback.__init__(twin_counter)
        model.learn(total, callback=counter, reset_num_timesteps=reset)
        twin.learn(total, reset_num_timesteps=reset)
        assert model.num_timesteps == twin.num_timesteps
        assert model._n_updates == n_workers * twin._n_updates
        assert counter.seen == list(range(counter.seen[0], model.num_timesteps + 1, n_envs))
        assert counter.rollouts * 5 == len(counter.seen)
    model.learn(0)  # as with A2C: nothing to do is no error
    assert model.num_timesteps == 0


def test_works_as_typed() -> None:
    model = A3C("MlpPolicy", "CartPole-v1")
    assert model.n_envs == usable_cores() and model.device == th.device("cpu")
    assert A3C.learn.__defaults__[0] > 0  # type: ignore[index]
    assert A3C("MlpPolicy", "CartPole-v1", n_workers=3).n_envs == 3
    assert A3C("MlpPolicy", gym.make("CartPole-v1")).n_envs == 1


@pytest.mark.parametrize("use_locking", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_learns_to_solve_a_task(backend: str, use_locking: bool) -> None:
    """SB3's own check of learning: act as observed. A policy that has learned nothing gets 25 of 100."""
    env = DummyVecEnv([lambda: IdentityEnv(dim=4)] * 2)
    model = A3C("MlpPolicy", env, backend=backend, use_locking=use_locking, gamma=0.4, seed=0)
    before, _ = evaluate_policy(model, env, n_eval_episodes=5, warn=False)
    model.learn(4000)
    after, _ = evaluate_policy(model, env, n_eval_episodes=5, warn=False)
    assert before < 60 and after > 95


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_callbacks_of_sb3(backend: str, tmp_path: Any) -> None:
    model = make_model(backend=backend)
    evaluation = EvalCallback(
        make_vec_env("CartPole-v1", seed=1),
        eval_freq=25,
        n_eval_episodes=2,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path / "best"),
        verbose=0,
        callback_after_eval=StopTrainingOnNoModelImprovement(max_no_improvement_evals=100),
    )
    every = Counter()
    calls: list[int] = []

    class Note(BaseCallback):
        def _on_step(self) -> bool:
            calls.append(self.num_timesteps)
            return True

    callbacks = [
        evaluation,
        CheckpointCallback(save_freq=50, save_path=str(tmp_path), name_prefix="check"),
        EveryNTimesteps(100, Note()),
        LogEveryNTimesteps(200),
        StopTrainingOnMaxEpisodes(10_000),
        every,
    ]
    model.learn(600, callback=callbacks, progress_bar=True, log_interval=None)
    assert evaluation.evaluations_timesteps == [100, 200, 300, 400, 500, 600]
    assert sorted(path.name for path in tmp_path.glob("check*")) == [f"check_{n}_steps.zip" for n in (200, 400, 600)]
    assert calls == [100, 200, 300, 400, 500, 600]
    assert (tmp_path / "best" / "best_model.zip").exists() and (tmp_path / "evaluations.npz").exists()
    assert A3C.load(tmp_path / "check_200_steps").num_timesteps == 200  # made while workers were at work


@pytest.mark.parametrize("looking", [False, True], ids=["alone", "beside a callback that looks"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_progress_bar(backend: str, looking: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is called for each step, and no step is put together for it, unless another callback looks at steps."""
    calls: list[int] = []
    put_together: list[bool] = []
    update = ProgressBarCallback._on_step

    def on_step(self: ProgressBarCallback) -> bool:
        calls.append(self.num_timesteps)
        put_together.append("infos" in self.locals)
        return update(self)

    monkeypatch.setattr(ProgressBarCallback, "_on_step", on_step)
    model = make_model(backend=backend, n_workers=2)
    model.learn(600, callback=[Counter()] if looking else None, progress_bar=True)
    assert calls == list(range(4, 604, 4)) and model.num_timesteps == 600
    assert set(put_together) == {looking}
    assert model.ep_info_buffer


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_what_was_evaluated_is_what_is_saved(backend: str, tmp_path: Any) -> None:
    """The policy stays the same within a rollout, whatever workers do meanwhile, and parameters are whole."""
    seen: list[th.Tensor] = []

    class Look(BaseCallback):
        def vector(self) -> th.Tensor:
            return th.cat([param.detach().flatten().clone() for param in self.model.policy.parameters()])

        def _on_rollout_start(self) -> None:
            seen.append(self.vector())

        def _on_step(self) -> bool:
            time.sleep(0.002)
            assert th.equal(self.vector(), seen[-1])
            self.model.save(tmp_path / "now")
            loaded = A3C.load(tmp_path / "now")
            assert all(th.equal(a, b) for a, b in zip(self.model.policy.parameters(), loaded.policy.parameters(), strict=True))
            steps = {float(state["step"]) for state in loaded.policy.optimizer.state.values()}
            assert len(steps) <= 1
            return True

    make_model(backend=backend, max_lead=0).learn(200, callback=Look())
    assert all(not th.equal(a, b) for a, b in itertools.pairwise(seen))


def test_stops_on_a_reward_threshold() -> None:
    stop = StopTrainingOnRewardThreshold(reward_threshold=5, verbose=0)
    evaluation = EvalCallback(make_vec_env("CartPole-v1", seed=1), callback_on_new_best=stop, eval_freq=25, verbose=0)
    model = make_model()
    model.learn(100_000, callback=evaluation)
    assert model.num_timesteps == 100


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a_callback_can_set_parameters_and_hyperparameters(backend: str) -> None:
    model = make_model(learning_rate=1e-3, backend=backend)
    other = make_model()
    with th.no_grad():
        other.policy.value_net.bias.fill_(1234.0)
    entropies: list[float] = []

    class Change(BaseCallback):
        def _on_rollout_end(self) -> None:
            if self.num_timesteps == 100:
                self.model.set_parameters(other.get_parameters())
                self.model.ent_coef = 0.5
                self.model.lr_schedule = lambda _: 1e-9

        def _on_step(self) -> bool:
            entropies.append(self.model.policy.value_net.bias.item())
            return True

    model.learn(2000, callback=Change())
    assert abs(entropies[-1] - 1234.0) < 1.0 and abs(entropies[0]) < 1.0
    assert model.policy.optimizer.param_groups[0]["lr"] == 1e-9


@pytest.mark.parametrize("backend", BACKENDS)
def test_logs(backend: str, tmp_path: Any) -> None:
    model = make_model(backend=backend, tensorboard_log=str(tmp_path))
    model.set_logger(configure(str(tmp_path), ["csv", "tensorboard"]))
    twin = A2C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=4, seed=0))
    twin.set_logger(configure(str(tmp_path / "a2c"), ["csv"]))
    model.learn(2000, log_interval=10)
    twin.learn(2000, log_interval=10)
    model.logger.close()
    twin.logger.close()
    rows = read_csv(tmp_path / "progress.csv")
    keys = set(read_csv(tmp_path / "a2c" / "progress.csv")[0])
    asynchronous = {key for key in rows[0] if key.startswith("async/")}
    assert set(rows[0]) - asynchronous == keys
    names = ("staleness_mean", "staleness_max", "lock_wait_fraction", "main_wait_fraction")
    assert asynchronous == {f"async/{name}" for name in names}
    assert [int(row["time/total_timesteps"]) for row in rows] == list(range(200, 2001, 200))
    last = {key: float(value) for key, value in rows[-1].items()}
    assert last["train/n_updates"] == 4 * 99
    assert 0 <= last["async/staleness_mean"] <= last["async/staleness_max"]
    assert last["async/staleness_max"] == 0 if backend == "serial" else True
    assert 0 <= last["async/lock_wait_fraction"] <= 1 and 0 <= last["async/main_wait_fraction"] <= 1
    events = EventAccumulator(str(tmp_path)).Reload()
    assert "async/staleness_mean" in events.Tags()["scalars"] and "rollout/ep_rew_mean" in events.Tags()["scalars"]


def test_tensorboard_log_has_our_name(tmp_path: Any) -> None:
    make_model(tensorboard_log=str(tmp_path)).learn(100).logger.close()
    assert (tmp_path / "A3C_1").is_dir()


class Slow(gym.Wrapper):
    """An environment that takes its time, and knows who it is."""

    def __init__(self, env: gym.Env, index: int, seconds: float) -> None:
        super().__init__(env)
        self.index, self.seconds, self.n_steps = index, seconds, 0

    def step(self, action: Any) -> Any:
        time.sleep(self.seconds)
        self.n_steps += 1
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, "index": self.index}


def slow_envs(seconds: list[float]) -> DummyVecEnv:
    return DummyVecEnv([lambda i=i, s=s: Slow(gym.make("CartPole-v1"), i, s) for i, s in enumerate(seconds)])  # type: ignore


@pytest.mark.parametrize("rollout_order", ["env", "arrival"])
@pytest.mark.parametrize("backend", ["thread", "process"])
def test_rollout_order(backend: str, rollout_order: Any) -> None:
    """In order "env" each environment makes as many steps, in its column; in order "arrival" the slow one makes fewer."""
    env = slow_envs([0.02, 0.0005, 0.0005, 0.0005])
    model = A3C("MlpPolicy", env, backend=backend, rollout_order=rollout_order, max_lead=2)
    columns: list[bool] = []
    counter = Counter()

    def look(locals_: dict, _: dict) -> bool:
        columns.append([info["index"] for info in locals_["infos"]] == list(locals_["env_indices"]))
        return True

    class Both(Counter):
        def _on_step(self) -> bool:
            return super()._on_step() and look(self.locals, {})

    counter = Both()
    model.learn(400, callback=counter)
    n_steps = [inner.n_steps for inner in env.envs]
    assert sum(n_steps) == 400 and all(columns)
    seen = np.bincount(np.concatenate(counter.envs), minlength=4)
    assert seen.tolist() == n_steps  # each step was shown once
    if rollout_order == "env":
        assert n_steps == [100] * 4
    else:
        assert n_steps[0] < 100  # its equal share


@pytest.mark.parametrize("max_lead", [0, 3])
@pytest.mark.parametrize("backend", ["thread", "process"])
def test_no_worker_is_further_ahead_than_max_lead(backend: str, max_lead: int) -> None:
    """The callback holds the main thread up; what workers have made by then is one rollout, the lead and the one at hand."""
    env = slow_envs([0.0, 0.0])
    model = A3C("MlpPolicy", env, backend=backend, max_lead=max_lead)
    ahead: list[int] = []

    class Wait(BaseCallback):
        def _on_rollout_end(self) -> None:
            shown = self.num_timesteps // 2
            expected = min(shown + max_lead * self.model.n_steps, 60)
            deadline = time.monotonic() + 300
            while min(env.get_attr("n_steps")) < expected and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(0.05)  # if they could make more, they would
            ahead.extend(n_steps - shown for n_steps in env.get_attr("n_steps"))

    model.learn(120, callback=type("Waiting", (Wait,), {"_on_step": lambda self: True})())
    assert max(ahead) == max_lead * model.n_steps


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_several_models_learn_at_once_in_threads_of_their_own(backend: str) -> None:
    models = [make_model(2, backend=backend) for _ in range(3)]
    threads = [threading.Thread(target=model.learn, args=(500,)) for model in models]
    n_threads = th.get_num_threads()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(model.num_timesteps == 500 for model in models)
    assert th.get_num_threads() == n_threads


@pytest.mark.parametrize("backend", BACKENDS)
def test_torchs_threads_are_put_back(backend: str) -> None:
    before = th.get_num_threads()
    model = make_model(backend=backend).learn(100, callback=lambda *_: th.get_num_threads() == before)
    assert model.num_timesteps == 100
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(th.get_num_threads()))
    thread.start()
    thread.join()
    assert th.get_num_threads() == before and counts == [before]


@pytest.mark.parametrize("backend", ["serial", "thread"])
def test_torchs_threads_are_put_back_after_two_runs_at_once(backend: str) -> None:
    """The second run is in a thread that has begun in the first run, with that run's number, and outlives it."""
    before = th.get_num_threads()
    first, second = make_model(backend=backend), make_model(backend=backend)
    second_has_begun, first_has_ended = threading.Event(), threading.Event()
    counts: list[int] = []

    def wait(*_: Any) -> bool:
        second_has_begun.set()
        return first_has_ended.wait(60)

    def learn_second() -> None:
        counts.append(th.get_num_threads())  # now torch gives this thread its number
        second.learn(100, callback=wait)

    thread = threading.Thread(target=learn_second)

    def begin_second(*_: Any) -> bool:
        if not second_has_begun.is_set():
            thread.start()
        return second_has_begun.wait(60)

    th.set_num_threads(2)
    try:
        first.learn(100, callback=begin_second)
        first_has_ended.set()
        thread.join()
        thread = threading.Thread(target=lambda: counts.append(th.get_num_threads()))
        thread.start()
        thread.join()
        assert first.num_timesteps == second.num_timesteps == 100
        assert counts[1:] == [2] and th.get_num_threads() == 2, counts
    finally:
        th.set_num_threads(before)


def test_a_number_of_torchs_threads_that_a_callback_sets_stays() -> None:
    before = th.get_num_threads()
    counts: list[int] = []
    try:
        make_model(backend="thread").learn(100, callback=lambda *_: th.set_num_threads(before + 1))
        thread = threading.Thread(target=lambda: counts.append(th.get_num_threads()))
        thread.start()
        thread.join()
        assert counts == [before + 1]
    finally:
        th.set_num_threads(before)


@pytest.mark.parametrize(
    ("ent_coef", "log_std"), [([1e6, 0.0], 0.1), ([1e6, 1e6], 0.1 + 0.1 / 1.99**0.5), (1e6, 0.1 + 0.1 / 1.99**0.5)]
)
def test_each_worker_has_its_own_entropy_coefficient(ent_coef: Any, log_std: float) -> None:
    """
    A huge coefficient is all that a worker's gradient consists of. RMSprop's first step is lr / sqrt(1 - alpha), its second
    along the same gradient lr / sqrt(1 - alpha^2), and a tiny gradient after a huge one makes hardly a step.
    """
    env = make_vec_env("Pendulum-v1", n_envs=2, seed=0)
    model = A3C("MlpPolicy", env, ent_coef=ent_coef, backend="serial", learning_rate=1e-2, max_grad_norm=1e9, seed=0)
    assert model.learn(10).policy.log_std.item() == pytest.approx(log_std, abs=1e-3)


def test_vf_learning_rate(tmp_path: Any) -> None:
    model = make_model(learning_rate=0.0, vf_learning_rate=lambda progress: 1e-2 * progress)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    before = {name: param.detach().clone() for name, param in model.policy.named_parameters()}
    model.learn(400, log_interval=5)
    model.logger.close()
    moved = {name for name, param in model.policy.named_parameters() if not th.equal(param, before[name])}
    assert moved == {name for name in before if "value_net" in name}
    rows = read_csv(tmp_path / "progress.csv")
    rates = [float(row["train/vf_learning_rate"]) for row in rows if row["train/vf_learning_rate"]]
    assert rates and all(a > b for a, b in itertools.pairwise(rates))


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a2c_and_ppo_take_over_the_environment(backend: str) -> None:
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=3, seed=0))
    A3C("MlpPolicy", env, backend=backend).learn(300)
    A2C("MlpPolicy", env).learn(300)
    A3C("MlpPolicy", env, backend=backend).learn(300).learn(30, reset_num_timesteps=False)
    env.step(np.zeros(3, int))


@pytest.mark.parametrize("engine", ["fused", "torch"])
def test_an_optimizer_of_ones_own(engine: str) -> None:
    model = A3C("MlpPolicy", make_vec_env("CartPole-v1", 2), engine=engine, policy_kwargs=dict(optimizer_class=th.optim.SGD))
    before = th.nn.utils.parameters_to_vector(model.policy.parameters()).detach().clone()
    model.learn(100)
    after = th.nn.utils.parameters_to_vector(model.policy.parameters())
    assert model._n_updates == 20 and after.isfinite().all() and not th.equal(before, after)
