"""Batched environments give what Stable-Baselines3's VecEnvs give, in each way of resetting, and workers get whole batches."""

import os
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import ClipReward, RecordEpisodeStatistics, TransformReward
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize

from sb3_a3c import A3C, record, register_vec_env, replay
from sb3_a3c.envs.batches import WRAPPERS_COUNT, Batch
from sb3_a3c.envs.closing import close_environments
from sb3_a3c.envs.lean_vec_envs import LeanVecNormalize
from sb3_a3c.envs.slices import slice_vec_env, units_of
from sb3_a3c.envs.vector_vec_env import VectorVecEnv
from sb3_a3c.worker.rollout import Ending

BACKENDS = ["serial", "thread", "process"]
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED]


class Walk(gym.Env):
    """Observations, rewards and ends do not depend on the actions. Half of the episodes are truncated."""

    observation_space: spaces.Space = spaces.Box(-10, 10, (3,))
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self._obs(), {"first": True}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        end = self.np_random.random()
        info = {"end": end, "pid": os.getpid()}
        return self._obs(), float(self.np_random.normal()), end < 0.15, 0.1 <= end < 0.25, info

    def _obs(self) -> Any:
        return self.np_random.normal(size=3).astype(np.float32)


class Nested(Walk):
    observation_space = spaces.Dict({"a": spaces.Box(-10, 10, (3,)), "b": spaces.Discrete(4)})

    def _obs(self) -> Any:
        return {"a": super()._obs(), "b": int(self.np_random.integers(4))}


def vector_env(mode: AutoresetMode = AutoresetMode.SAME_STEP, n: int = 3, env: Callable[[], gym.Env] = Walk) -> VectorEnv:
    return SyncVectorEnv([env] * n, autoreset_mode=mode)


def batched(mode: AutoresetMode = AutoresetMode.SAME_STEP, n_batches: int = 2, **kwargs: Any) -> VectorVecEnv:
    return VectorVecEnv([lambda: vector_env(mode, **kwargs)] * n_batches)


def parameters_of(model: Any) -> np.ndarray:
    return np.concatenate([param.numpy(force=True).ravel() for param in model.policy.parameters()])


def transitions(venv: VecEnv, n_steps: int) -> list[list[Any]]:
    """For each environment: what each of its transitions gives. Steps that only reset are left out."""
    venv.seed(5)
    venv.reset()
    found: list[list[Any]] = [[] for _ in range(venv.num_envs)]
    for _ in range(n_steps):
        obs, rewards, dones, infos = venv.step(np.zeros((venv.num_envs, 2), np.float32))
        only_reset = venv.only_reset if isinstance(venv, VectorVecEnv) else np.zeros(venv.num_envs, bool)
        for i, of_env in enumerate(found):
            one = {key: array[i] for key, array in obs.items()} if isinstance(obs, dict) else obs[i]
            if only_reset[i]:
                of_env[-1][0] = one  # the first observation of the next episode, which came a step later
                continue
            info = infos[i]
            ending = None
            if dones[i]:
                episode = info["episode"]
                ending = [info["terminal_observation"], info["TimeLimit.truncated"], episode["r"], episode["l"], info["end"]]
            of_env.append([one, float(rewards[i]), bool(dones[i]), ending])
    return found


@pytest.mark.parametrize("env", [Walk, Nested])
@pytest.mark.parametrize("mode", MODES)
def test_the_transitions_are_those_of_a_dummy_vec_env(mode: AutoresetMode, env: type[gym.Env]) -> None:
    """Over the same seeds: observations, rewards, ends, terminal observations, truncation, returns and lengths, exactly."""
    mine = transitions(batched(mode, env=env), 60)
    theirs = transitions(DummyVecEnv([lambda: Monitor(env())] * 6), 60)
    for i, of_env in enumerate(mine):
        n = len(of_env) - 1  # the first observation of the next episode may be missing in the last
        assert n >= 40
        for one, other in zip(of_env[:n], theirs[i][:n], strict=True):
            np.testing.assert_equal(one, other)


def test_seeds_are_those_of_a_dummy_vec_env() -> None:
    venv, plain = batched(), DummyVecEnv([Walk] * 6)
    venv.seed(7)
    plain.seed(7)
    np.testing.assert_array_equal(venv.reset()[:3], plain.reset()[:3])  # type: ignore[index]
    assert venv.reset_infos == [{"first": True}] * 6


@pytest.mark.parametrize("algorithm", [A2C, A3C])
def test_one_worker_learns_what_a2c_learns(algorithm: Any) -> None:
    """A2C over a DummyVecEnv, A2C over a batch and A3C over a batch: to the last bit, with the same statistics."""
    kwargs: dict[str, Any] = dict(n_steps=5, seed=1)
    venv = VecNormalize(batched(n_batches=1))
    model = algorithm("MlpPolicy", venv, **(kwargs | (dict(engine="torch") if algorithm is A3C else {}))).learn(600)
    plain_venv = VecNormalize(DummyVecEnv([lambda: Monitor(Walk())] * 3))
    plain = A2C("MlpPolicy", plain_venv, **kwargs).learn(600)
    np.testing.assert_array_equal(parameters_of(model), parameters_of(plain))
    assert model.num_timesteps == plain.num_timesteps
    np.testing.assert_array_equal(venv.obs_rms.mean, plain_venv.obs_rms.mean)
    assert [info["r"] for info in model.ep_info_buffer] == [info["r"] for info in plain.ep_info_buffer]


@pytest.mark.parametrize("engine", ["torch", "fused"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
def test_workers_get_whole_batches(mode: AutoresetMode, backend: str, engine: str) -> None:
    venv = VecNormalize(batched(mode, n_batches=3))
    model, seen = A3C("MlpPolicy", venv, n_steps=4, n_workers=2, backend=backend, engine=engine), Seen()
    model.learn(9 * 4 * 10, seen)
    assert model.num_timesteps == 9 * 4 * 10 and len(seen.pids) == (2 if backend == "process" else 1)
    assert (os.getpid() in seen.pids) == (backend != "process")
    assert len(model.ep_info_buffer or ()) > 0
    A2C("MlpPolicy", venv).learn(90)  # any algorithm can go on
    model.learn(36, reset_num_timesteps=False)


class Seen(BaseCallback):
    """Keeps the processes in which episodes have ended, and checks what it sees."""

    def _on_training_start(self) -> None:
        self.pids: set[int] = set()

    def _on_step(self) -> bool:
        infos, dones = self.locals["infos"], self.locals["dones"]
        assert len(infos) == len(dones) == 9
        for info, done in zip(infos, dones, strict=True):
            assert ("terminal_observation" in info) == done
            if done:
                self.pids.add(int(info["pid"]))
        return True


def test_a_function_makes_one_batch_per_worker() -> None:
    model = A3C("MlpPolicy", lambda: vector_env(), n_workers=2, n_steps=4)
    assert isinstance(model.env, VectorVecEnv) and [len(unit) for unit in units_of(model.env)] == [3, 3]
    model.learn(6 * 4 * 3)
    assert isinstance(A3C("MlpPolicy", vector_env(), n_steps=4).learn(60).env, VectorVecEnv)
    model.set_env(vector_env(n=6))  # type: ignore[arg-type]
    assert model.n_envs == 6


@pytest.mark.parametrize("make", [lambda: gym.make_vec("CartPole-v1", 8), lambda: gym.make_vec("CartPole-v1", 8, "async")])
def test_gymnasiums_own(make: Callable[[], VectorEnv]) -> None:
    """Also one that steps in processes of its own, and one whose step is a single function (CartPole's)."""
    model = A3C("MlpPolicy", make, n_workers=2, n_steps=4)
    try:
        model.learn(16 * 4 * 20)
        assert model.env is not None
        mean, _ = evaluate_policy(model, model.env, n_eval_episodes=4)
        assert 8 <= mean <= 500
    finally:
        model.env.close()  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", MODES)
def test_statistics_count_transitions_only(mode: AutoresetMode) -> None:
    """Where an environment only resets, neither its reward nor the observation before is counted."""
    venv = VecNormalize(batched(mode))
    venv.seed(3)
    venv.reset()
    (part,) = slice_vec_env(venv, [np.arange(6)])
    assert isinstance(part, LeanVecNormalize) and isinstance(part.unwrapped, VectorVecEnv)
    base, obs_rms, ret_rms = part.unwrapped, RunningMeanStd(shape=(3,)), RunningMeanStd(shape=())
    obs_rms.update(venv.get_original_obs())  # type: ignore[arg-type]
    returns = np.zeros(6)
    for _ in range(50):
        _, _, dones, _ = part.step(np.zeros((6, 2), np.float32))
        raw_obs, raw_rewards = part.old_obs, part.old_reward
        returns = returns * part.gamma + raw_rewards
        if (~base.inactive).any():
            obs_rms.update(raw_obs[~base.inactive])  # type: ignore[call-overload, index]
        if (~base.only_reset).any():
            ret_rms.update(returns[~base.only_reset])
        returns[dones] = 0
        np.testing.assert_array_equal(base.inactive, dones if mode is AutoresetMode.NEXT_STEP else np.zeros(6, bool))
    np.testing.assert_allclose(part.obs_rms.mean, obs_rms.mean, rtol=1e-6)
    np.testing.assert_allclose(part.ret_rms.var, ret_rms.var, rtol=1e-6)
    assert part.obs_rms.count == pytest.approx(obs_rms.count)


@pytest.mark.parametrize("engine", ["torch", "fused"])
@pytest.mark.parametrize("normalize_advantage", [False, True])
def test_nothing_is_learned_from_steps_that_only_reset(engine: str, normalize_advantage: bool) -> None:
    """What such a step holds does not matter: with other values in it, the parameters are the same."""
    learned = []
    for junk in (0.0, 1e3):
        venv = Junk(batched(AutoresetMode.NEXT_STEP, n_batches=1), junk)
        model = A3C("MlpPolicy", venv.venv, n_steps=8, seed=1, engine=engine, normalize_advantage=normalize_advantage)
        model.env = venv  # after the model was made
        learned.append(parameters_of(model.learn(240)))
    np.testing.assert_array_equal(*learned)


class Junk(VecNormalize):
    """Changes the rewards of steps that only reset."""

    def __init__(self, venv: VectorVecEnv, junk: float) -> None:
        super().__init__(venv, norm_obs=False, norm_reward=False)
        self.junk = junk

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(self.venv, VectorVecEnv)
        return obs, np.where(self.venv.only_reset, self.junk, rewards), dones, infos


class Marks(VecEnvWrapper):
    """Writes into every info, and fails if it finds what it wrote in an earlier step."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            assert "mark" not in info
            info["mark"] = True
        return obs, rewards, dones, infos


@pytest.mark.parametrize("n_workers", [1, 2])
def test_infos_that_a_wrapper_writes_into_are_of_one_step(n_workers: int) -> None:
    register_vec_env(Marks)
    model = A3C("MlpPolicy", Marks(batched(AutoresetMode.SAME_STEP)), n_workers=n_workers, n_steps=4)
    assert model.learn(240).num_timesteps == 240


class ReportsEachStep(VectorVecEnv):
    """Reports an episode of the first environment at each step, and fails if an info is that of another environment."""

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = super().step_wait()
        infos[0]["episode"] = {"r": 7.0, "l": 1, "t": 0.0}
        assert len(set(map(id, infos))) == len(infos)
        return obs, rewards, dones, infos


def test_a_subclass_may_report_episodes_at_any_step() -> None:
    env = ReportsEachStep([vector_env()])
    model = A3C("MlpPolicy", env, n_workers=1, n_steps=4)
    model.learn(3 * 40)
    assert model.ep_info_buffer is not None
    assert sum(episode["r"] == 7.0 for episode in model.ep_info_buffer) == 40
    assert not env.shares_empty_info


def test_statistics_of_episodes_that_the_environment_has_counted() -> None:
    venv = VectorVecEnv([lambda: RecordEpisodeStatistics(vector_env())])
    venv.seed(1)
    venv.reset()
    episodes = []
    for _ in range(30):
        _, _, _, infos = venv.step(np.zeros((3, 2), np.float32))
        episodes += [info["episode"] for info in infos if "episode" in info]
    assert episodes and all(set(episode) == {"r", "l", "t"} and episode["l"] >= 1 for episode in episodes)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"n_workers must be at most the number of batches of environments, 1 .* is 2"):
        A3C("MlpPolicy", vector_env(), n_workers=2)
    with pytest.raises(TypeError, match=r"env must be a function that returns a gymnasium.vector.VectorEnv.*make_vec_env"):
        A3C("MlpPolicy", Walk)
    with pytest.raises(ValueError, match="batches must be at least one"):
        VectorVecEnv([])
    with pytest.raises(ValueError, match="batches must have the same spaces"):
        VectorVecEnv([vector_env(), vector_env(env=Nested)])
    venv = VectorVecEnv([vector_env(), vector_env()])
    with pytest.raises(TypeError, match=r"can't be sent to another process. Give A3C a function that makes it"):
        A3C("MlpPolicy", venv, backend="process").learn(100)
    assert A3C("MlpPolicy", venv).learn(100).num_timesteps >= 100
    with pytest.raises(ValueError, match="indices must be None for env_method"):
        venv.env_method("reset", indices=[0])


def test_attributes_and_methods() -> None:
    venv = VectorVecEnv([vector_env(), AsyncVectorEnv([Walk] * 2, autoreset_mode=AutoresetMode.SAME_STEP)])
    try:
        assert venv.get_attr("render_mode") == [None] * 5 and venv.get_attr("num_envs", [0, 4]) == [3, 2]
        venv.set_attr("mark", 4)
        assert venv.get_attr("mark") == [4] * 5
        assert venv.env_is_wrapped(Monitor) == [True] * 5 and venv.env_is_wrapped(TimeLimited, [0]) == [False]
        assert len(venv.env_method("get_wrapper_attr", "mark")) == 5
    finally:
        venv.close()


class TimeLimited(gym.wrappers.TimeLimit):
    pass


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a_recorded_run_is_replayed_to_the_last_bit(backend: str) -> None:
    """A worker process makes its own batch, and so does the replay of it."""

    def make(place: str) -> A3C:
        venv = VecNormalize(batched(AutoresetMode.NEXT_STEP, n_batches=2))
        return A3C("MlpPolicy", venv, n_steps=4, seed=3, backend=place)

    recorded = make(backend)
    with record(recorded) as recording:
        recorded.learn(600)
    replayed = make("serial")
    with replay(replayed, recording):
        replayed.learn(600)
    np.testing.assert_array_equal(parameters_of(replayed), parameters_of(recorded))


def test_of_a_step_only_the_infos_that_report_something_are_sent() -> None:
    infos: list[dict[str, Any]] = [{}, {"episode": {"r": 1.0}}, {"is_success": True}, {"episode": {"r": 2.0}}]
    ending = Ending.of(5, infos, np.array([False, True, True, False]), True)
    assert ending.n_steps == 5 and ending.infos == infos[1:]
    np.testing.assert_array_equal(ending.dones, [True, True, False])


class Logged(BaseCallback):
    """Collects what is logged under ``train/policy_loss``."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def _on_rollout_start(self) -> None:
        if "train/policy_loss" in self.logger.name_to_value:
            self.losses.append(self.logger.name_to_value["train/policy_loss"])

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("engine", ["torch", "fused"])
@pytest.mark.parametrize("normalize_advantage", [False, True])
@pytest.mark.parametrize("n_steps", [1, 2])
def test_rollouts_with_few_transitions_or_none(engine: str, normalize_advantage: bool, n_steps: int) -> None:
    """With one environment, short rollouts may have one transition, or only the step that resets."""
    if n_steps == 1 and normalize_advantage:
        pytest.skip("refused")
    env, callback = SyncVectorEnv([Walk], autoreset_mode=AutoresetMode.NEXT_STEP), Logged()
    model = A3C("MlpPolicy", env, n_steps=n_steps, engine=engine, normalize_advantage=normalize_advantage, seed=0)
    model.learn(100, callback, log_interval=1000)
    assert np.isfinite(parameters_of(model)).all()
    assert len(callback.losses) > 10 and np.isfinite(callback.losses).all()


class FailingClose(SyncVectorEnv):
    made = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        type(self).made += 1
        super().__init__(*args, **kwargs)

    def close_extras(self, **kwargs: Any) -> None:
        if not vars(self).pop("has_failed", False):  # the first time; Gymnasium may call it again in a finalizer
            self.has_failed = True
            raise RuntimeError("does not close")


def test_a_batch_that_can_not_be_closed_is_not_made_again() -> None:
    batch = Batch(lambda: FailingClose([Walk]))
    assert batch.env.num_envs == 1
    assert close_environments([batch]) == ["Batch.close() failed (RuntimeError: does not close)"]
    assert FailingClose.made == 1


class Counting(gym.Env):
    """Episodes of three steps with a reward of 3 each. Terminal observations are ``junk``, all others 0."""

    observation_space = spaces.Box(-100, 100, (1,))
    action_space = spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"
    junk = 1.0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.n_steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.n_steps += 1
        done = self.n_steps == 3
        return np.full(1, self.junk if done else 0.0, np.float32), 3.0, done, False, {}

    def render(self) -> Any:
        return np.zeros((4, 4, 3), np.uint8)


class Junkier(Counting):
    junk = 50.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_a_recurrent_policy_does_not_remember_the_last_episode(mode: AutoresetMode, engine: str) -> None:
    """Nothing but the last observations of terminated episodes differs, and nothing is learned from them."""
    pytest.importorskip("sb3_contrib")
    parameters = []
    for env in (Counting, Junkier):
        venv = VectorVecEnv([lambda env=env: vector_env(mode, 2, env)])
        parameters.append(parameters_of(A3C("MlpLstmPolicy", venv, seed=1, n_steps=8, engine=engine).learn(160)))
    np.testing.assert_array_equal(*parameters)


class WithFlags(SyncVectorEnv):
    """Its flags are numbers, as simulators in C may return them."""

    dtype: Any = np.uint8

    def step(self, actions: Any) -> Any:
        obs, rewards, terminated, truncated, infos = super().step(actions)
        return obs, rewards, terminated.astype(self.dtype), truncated.astype(self.dtype), {**infos, "fps": np.array(3.0)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_flags_may_be_numbers(mode: AutoresetMode, dtype: Any) -> None:
    class Flags(WithFlags):
        pass

    Flags.dtype = dtype
    make = [lambda cls=cls: cls([Walk] * 3, autoreset_mode=mode) for cls in (SyncVectorEnv, Flags)]
    models = [A3C("MlpPolicy", VecNormalize(VectorVecEnv([one])), seed=1, engine="torch").learn(300) for one in make]
    np.testing.assert_array_equal(*map(parameters_of, models))
    assert [entry["l"] for entry in models[0].ep_info_buffer] == [entry["l"] for entry in models[1].ep_info_buffer]
    assert models[0].env.ret_rms.var == models[1].env.ret_rms.var


@pytest.mark.parametrize("mode", MODES)
def test_statistics_that_a_wrapper_has_counted_before_rewards_were_clipped(mode: AutoresetMode) -> None:
    def make() -> VectorEnv:
        return ClipReward(RecordEpisodeStatistics(vector_env(mode, 2, Counting)), max_reward=1.0)

    if mode is AutoresetMode.SAME_STEP and not WRAPPERS_COUNT:
        pytest.skip("RecordEpisodeStatistics of this version of Gymnasium counts wrongly")
    venv = VectorVecEnv([make])
    venv.reset()
    infos = [venv.step(np.zeros(2, int))[3] for _ in range(6)][-1]
    if mode is AutoresetMode.NEXT_STEP:  # after a step that only resets
        infos = venv.step(np.zeros(2, int))[3]
    assert [(info["episode"]["r"], info["episode"]["l"]) for info in infos] == [(9, 3), (9, 3)]


@pytest.mark.parametrize("vector_class", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("mode", MODES)
def test_a_wrapper_counts_as_sb3_does(mode: AutoresetMode, vector_class: Callable[..., VectorEnv]) -> None:
    """Also episodes that go on while another environment is reset."""
    if mode is AutoresetMode.SAME_STEP and not WRAPPERS_COUNT:
        pytest.skip("RecordEpisodeStatistics of this version of Gymnasium counts wrongly")
    venv = VectorVecEnv([lambda: RecordEpisodeStatistics(vector_class([Walk] * 3, autoreset_mode=mode))])
    expected = transitions(DummyVecEnv([lambda: Monitor(Walk())] * 3), 60)
    for of_env, expected_of_env in zip(transitions(venv, 60), expected, strict=True):
        ends = [ending[2:4] for *_, ending in of_env if ending]
        np.testing.assert_allclose(ends, [ending[2:4] for *_, ending in expected_of_env if ending][: len(ends)], atol=1e-5)
        assert len(ends) > 3
    venv.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_reward_of_a_step_that_only_resets_does_not_count(mode: AutoresetMode) -> None:
    returns = []
    venv = VecNormalize(VectorVecEnv([lambda: TransformReward(vector_env(mode, 2, Counting), lambda reward: reward - 1)]))
    slice_ = slice_vec_env(venv, [np.arange(2)])[0]
    slice_.reset()
    for _ in range(12):
        infos, before = slice_.step(np.zeros(2, int))[3], slice_.returns.copy()
        returns += [info["episode"]["r"] for info in infos if "episode" in info]
        assert (before <= 6).all() and (before >= 0).all()
    assert set(returns) == {6}


def test_one_simulator_in_two_batches_is_refused() -> None:
    env = vector_env()
    with pytest.raises(ValueError, match="a function has returned the same one twice"):
        VectorVecEnv([lambda: env] * 2)
    with pytest.raises(ValueError, match="a function has returned the same one twice"):
        A3C("MlpPolicy", lambda: env, n_workers=2)
    with pytest.raises(TypeError, match="batches must be a list of functions"):
        VectorVecEnv(vector_env)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"batches must be a list of functions .*, but one of them is 3"):
        VectorVecEnv([3])  # type: ignore[list-item]


def test_pools_with_the_same_seed_are_told() -> None:
    class Pool(SyncVectorEnv):
        """EnvPool is seeded when it is made, and always in the same way by default."""

        def __init__(self, seed: int = 42) -> None:
            super().__init__([Walk])
            self.config = {"seed": seed}

    with pytest.warns(UserWarning, match=r"EnvPool with the same seed .* \[42, 42\]"):
        VectorVecEnv([Pool, Pool])
    VectorVecEnv([Pool, lambda: Pool(1)])


def test_attributes_may_be_lists() -> None:
    venv = batched()
    venv.set_attr("goal", [1.0, 2.0])
    assert venv.get_attr("goal") == [[1.0, 2.0]] * 6


def test_images_of_batches() -> None:
    class OneArray(SyncVectorEnv):
        def render(self) -> Any:
            return np.stack(super().render())

    venv = VectorVecEnv([lambda: SyncVectorEnv([Counting] * 2), lambda: OneArray([Counting] * 2)])
    venv.reset()
    assert [image.shape for image in venv.get_images()] == [(4, 4, 3)] * 4
