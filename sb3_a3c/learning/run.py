"""One run of ``learn()``: it sets up workers, their environments and the shared parameters, and reports their rollouts."""

import warnings
from collections.abc import Sequence
from functools import partial
from itertools import takewhile

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from sb3_a3c.backends import BACKENDS, Backend, MaxLead, RunSpec, SeenWorker, make_backend
from sb3_a3c.engines import ENGINES, Engine, choose_engine
from sb3_a3c.envs.batches import concat
from sb3_a3c.envs.closing import close_environments
from sb3_a3c.envs.gate import Gate
from sb3_a3c.envs.normalization import journal_statistics, moments_of, running_statistics, set_moments
from sb3_a3c.envs.slices import CannotSlice, environments_in, merge_counters, slice_vec_env, take_envs_back, units_of
from sb3_a3c.envs.state import is_equal, read_state, write_state
from sb3_a3c.kernels.cache import use_cache
from sb3_a3c.learning.advice import Advice
from sb3_a3c.learning.arguments import Arguments
from sb3_a3c.learning.model_changes import ModelChanges
from sb3_a3c.learning.reporter import Reporter
from sb3_a3c.parameters.layout import Layout
from sb3_a3c.parameters.shared import SharedParameters
from sb3_a3c.recording.recording import Recording, RecordNextRun
from sb3_a3c.recording.replay_backend import ReplayBackend
from sb3_a3c.recording.terms import Terms, hidden_state, terms_of
from sb3_a3c.system.cleanup import CleanupStack
from sb3_a3c.worker.callback_needs import CallbackNeeds, needs_of
from sb3_a3c.worker.recorder import Recorder
from sb3_a3c.worker.spec import WorkerSpec
from sb3_a3c.worker.worker import Worker


def run(
    model: OnPolicyAlgorithm,
    next_run: RecordNextRun | Recording | None,
    callback: BaseCallback,
    log_interval: int | None,
    total_timesteps: int,
) -> None:
    """
    Learn until ``total_timesteps``, or until a callback stops the run. However the run ends, all workers have exited,
    and the model and its VecEnv are in a valid state.

    :param model: The model, set up to learn
    :param next_run: Records or replays the order of updates, None: neither
    :param callback: The callback of this ``learn()``
    :param log_interval: Rollouts of all environments between two logs, None: no logs
    :param total_timesteps: Environment steps at which the run ends
    """
    venv = model.env
    assert venv is not None
    arguments = Arguments.of(model)
    n_rollouts = int(-(-(total_timesteps - model.num_timesteps) // (model.n_steps * venv.num_envs)))
    needs = needs_of(callback, model)
    slices, envs = _divide(venv, arguments.resolve_n_workers(venv))
    engine, why = choose_engine(arguments.engine, model.policy, model.rollout_buffer_class)
    record = next_run if isinstance(next_run, RecordNextRun) else None
    recorder = None if record is None else record.begin(len(slices), min(arguments.max_lead, n_rollouts * len(slices)))
    is_remote = len(slices) > 1 and BACKENDS[arguments.backend].is_remote and not isinstance(next_run, Recording)
    changes = ModelChanges(model, envs[0] is not venv, is_remote)
    specs, parameters = _make_specs(model, arguments, ENGINES[engine], changes, slices, envs, n_rollouts, needs, recorder)
    terms = (
        None if next_run is None else terms_of(model, arguments.vf_lr_schedule, len(specs), n_rollouts, engine, specs[0].seed)
    )
    backend = _make_backend(arguments, next_run, specs, parameters, n_rollouts, terms)
    advice = Advice(len(specs), backend.n_cores(), model.logger if model.verbose >= 1 else None)
    waits = len(specs) == 1  # a single worker waits while callbacks run
    reporter = Reporter(
        model, callback, needs, parameters, log_interval, advice, model.use_sde and not (waits and engine == "torch")
    )
    if model.verbose >= 1:  # a caller may have given the model a logger that prints
        workers = "1 worker in the main thread" if waits else f"{len(specs)} workers, backend {arguments.backend}"
        model.logger.info(f"Learning with {workers}, engine {engine} ({why})")
    stack = CleanupStack()
    with stack, stack:
        stack.callback(lambda: _close_replaced(venv, backend.workers))
        stack.callback(lambda: _take_back(model, venv, backend.workers, parameters))
        if record is not None and terms is not None:
            stack.callback(lambda: record.end(terms, backend))
        stack.callback(partial(model.policy.set_training_mode, True))
        stack.enter(reporter)
        stack.callback(reporter.refresh)
        if not waits:  # else callbacks may use its environments freely
            stack.enter(Gate(venv, backend.reach))
        stack.enter(backend)
        stack.callback(parameters.free)
        take_changes = partial(_take_changes, model, venv, model.policy, changes, reporter, backend.workers, parameters)
        for _ in takewhile(lambda _: model.num_timesteps < total_timesteps, range(n_rollouts)):  # a callback may count more
            looked_at = reporter.needs >= CallbackNeeds.MODEL
            if waits and looked_at and reporter.start_rollout():
                take_changes()
            rollouts = backend.collect()
            if record is not None:
                record.show([rollout.worker for rollout in rollouts])
            if not reporter.report(rollouts):
                break
            if looked_at:
                take_changes()
            reporter.count(backend.learn(rollouts, reporter.written))
            if backend.n_restarts:
                model.logger.record("async/restarts", backend.n_restarts)


def _divide(venv: VecEnv, n_workers: int) -> tuple[list[np.ndarray], list[VecEnv]]:
    """Divide the environments as evenly as possible among the workers. If they can't be divided, there is one worker."""
    units = units_of(venv)
    slices = [np.concatenate([units[n] for n in part]) for part in np.array_split(np.arange(len(units)), n_workers)]
    try:
        return slices, slice_vec_env(venv, slices)
    except CannotSlice as reason:
        if n_workers > 1:
            warnings.warn(f"A3C learns with one worker instead of {n_workers}: {reason}", stacklevel=4)  # at learn()
        return [np.arange(venv.num_envs)], [venv]


def _make_specs(
    model: OnPolicyAlgorithm,
    arguments: Arguments,
    engine: type[Engine],
    changes: ModelChanges,
    slices: Sequence[np.ndarray],
    envs: Sequence[VecEnv],
    n_rollouts: int,
    needs: CallbackNeeds,
    recorder: Recorder | None,
) -> tuple[list[WorkerSpec], SharedParameters]:
    assert model.env is not None and model._last_obs is not None and model._last_episode_starts is not None
    layout = Layout(model.policy, separate_critic=arguments.vf_learning_rate is not None)
    # A VecEnv that was not sliced keeps its statistics: no other worker shares them.
    sliced = envs[0] is not model.env
    statistics = running_statistics(model.env) if sliced else []
    parameters = SharedParameters(
        model.policy,
        layout,
        statistics,
        model.num_timesteps,
        arguments.use_locking,
        # A single worker on the torch engine steps as A2C does. If compiled code can't be stored, nobody waits for it.
        compiled=engine.compiled or (len(slices) > 1 and use_cache()),
    )
    state = hidden_state(model)
    specs = [
        WorkerSpec(
            index=index,
            env_indices=env_indices,
            env=env,
            engine=engine,
            policy=changes.policy,
            seed=seed,
            rollout_buffer=_make_rollout_buffer(model, env.num_envs),
            hyperparameters=hyperparameters,
            total_timesteps=model._total_timesteps,
            final_timesteps=model.num_timesteps + n_rollouts * model.n_steps * model.env.num_envs,
            last_obs=_entries(model._last_obs, env_indices),
            last_episode_starts=model._last_episode_starts[env_indices],
            statistics=journal_statistics(env) if sliced else [],
            needs=needs,
            recorder=recorder,
            state=None if state is None else state[env_indices],
        )
        for index, (env_indices, env, seed, hyperparameters) in enumerate(
            zip(slices, envs, _seeds(model, len(slices)), changes.hyperparameters(len(slices)), strict=True)
        )
    ]
    return specs, parameters


def _make_backend(
    arguments: Arguments,
    next_run: RecordNextRun | Recording | None,
    specs: Sequence[WorkerSpec],
    parameters: SharedParameters,
    n_rollouts: int,
    terms: Terms | None,
) -> Backend:
    if isinstance(next_run, Recording) and terms is not None:
        next_run.check_fits(terms)
        if len(specs) > 1:  # one worker repeats by itself
            return ReplayBackend(specs, parameters, next_run)
    max_lead = MaxLead(arguments.max_lead, arguments.max_lead_bytes // len(specs))
    run_spec = RunSpec(specs, parameters, n_rollouts, arguments.rollout_order, max_lead)
    return make_backend(arguments.backend, run_spec, arguments.backend_kwargs)


def _take_changes(
    model: OnPolicyAlgorithm,
    venv: VecEnv,
    policy: ActorCriticPolicy,
    changes: ModelChanges,
    reporter: Reporter,
    workers: Sequence[SeenWorker],
    parameters: SharedParameters,
) -> None:
    """Let what callbacks have changed take effect."""
    if model.env is not venv or model._last_obs is None:
        raise RuntimeError(
            "env must not be set by a callback: the workers have the environments that learn() began with. Call set_env() "
            "between two calls of learn()"
        )
    if model.policy is not policy:
        raise RuntimeError(
            "policy must not be replaced by a callback: the workers learn the one that learn() began with. Write into it "
            "instead, with load_state_dict() or set_parameters()"
        )
    changes.tell(workers)
    reporter.absorb()
    if len(workers) > 1:
        return
    (worker,) = workers
    assert isinstance(worker, Worker) and model._last_episode_starts is not None
    if worker.env is not venv:
        if not is_equal(state := read_state(venv), read_state(worker.env)):
            write_state(worker.env, [state])
        moments, its_moments = ([moments_of(rms) for rms in running_statistics(env)] for env in (venv, worker.env))
        if not is_equal(moments, its_moments):
            worker.set_statistics(moments)
            parameters.moments = moments
    if not (is_equal(model._last_obs, worker.last_obs) and is_equal(model._last_episode_starts, worker.last_episode_starts)):
        worker.go_on_from(model._last_obs, model._last_episode_starts)  # a callback has reset the environments, for instance


def _make_rollout_buffer(model: OnPolicyAlgorithm, n_envs: int) -> RolloutBuffer:
    assert model.rollout_buffer_class is not None
    return model.rollout_buffer_class(
        model.n_steps,
        model.observation_space,
        model.action_space,
        device=model.policy.device,  # with its index: a worker's thread may have another current GPU
        gamma=model.gamma,
        gae_lambda=model.gae_lambda,
        n_envs=n_envs,
        **model.rollout_buffer_kwargs,
    )


def _seeds(model: OnPolicyAlgorithm, n_workers: int) -> Sequence[np.random.SeedSequence | None]:
    """
    One seed per worker. They depend on NumPy's generator, which ``set_random_seed`` seeds, and on the number of updates, so
    that a model that continues learning does not repeat its noise. A single worker has none: it uses the generators that A2C
    uses.
    """
    if n_workers == 1:
        return [None]
    entropy = int(np.random.randint(0, np.iinfo(np.uint32).max, dtype=np.uint32))
    return np.random.SeedSequence(entropy, spawn_key=(model._n_updates,)).spawn(n_workers)


def _take_back(model: OnPolicyAlgorithm, venv: VecEnv, workers: Sequence[SeenWorker], parameters: SharedParameters) -> None:
    """Bring the user's VecEnv and the model up to date with the slices."""
    slices = [worker.env for worker in workers]
    # A callback may have stopped a single worker before it pushed its normalization statistics.
    is_ahead = len(slices) == 1 and not workers[0].failed
    moments = [moments_of(rms) for rms in running_statistics(slices[0])] if is_ahead else parameters.moments
    for rms, rms_moments in zip(running_statistics(venv), moments, strict=False):
        set_moments(rms, rms_moments)
    if slices[0] is not venv:
        write_state(venv, [read_state(env) for env in slices])
        merge_counters(venv, slices)
        take_envs_back(venv, slices)
    if model.env is not venv:  # a callback has replaced it, and its observations are not the workers'
        return
    model._last_obs = concat([worker.last_obs for worker in workers])
    model._last_episode_starts = concat([worker.last_episode_starts for worker in workers])
    states = [worker.state for worker in workers]
    if all(state is not None for state in states):
        model._last_states = concat(states)  # type: ignore[attr-defined]
    if any(worker.failed for worker in workers):
        model._last_obs = None  # the next learn() resets the environments


def _close_replaced(venv: VecEnv, workers: Sequence[SeenWorker]) -> None:
    """Close the environments of the user's VecEnv that were replaced by copies from worker processes."""
    held = {id(env) for env in environments_in(venv)}
    for worker in workers:
        worker.replaced = [env for env in worker.replaced if id(env) not in held]
        for failure in close_environments(worker.replaced):
            warnings.warn(
                f"environments were replaced by their copies from a worker's process, and an original {failure}", stacklevel=2
            )


def _entries(obs: VecEnvObs, indices: np.ndarray) -> VecEnvObs:
    """Some environments' observations, as views: torch's results depend on the memory layout, which a copy would change."""
    part = slice(indices[0], indices[-1] + 1)
    return {key: array[part] for key, array in obs.items()} if isinstance(obs, dict) else obs[part]  # type: ignore
