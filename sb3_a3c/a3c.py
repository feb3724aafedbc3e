"""A3C as an algorithm of Stable-Baselines3: its arguments, how it is set up, and ``learn()``."""

import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_a3c.backends import RolloutOrder, prepare_backend
from sb3_a3c.backends.process.guard import GUARD, is_importing_the_script
from sb3_a3c.engines import ENGINES, State, choose_engine
from sb3_a3c.engines.hyperparameters import PerWorker
from sb3_a3c.envs.gate import Claim
from sb3_a3c.envs.making import is_constructor, make_envs, wrap_batched
from sb3_a3c.envs.pipes import SynchronizedPipes
from sb3_a3c.envs.spaces import warn_of_action_masks, warn_of_spaces
from sb3_a3c.kernels.compilation import compile_kernels, needed
from sb3_a3c.learning.a2c_arguments import check_a2c_arguments
from sb3_a3c.learning.arguments import Arguments, check_learn, check_n_workers
from sb3_a3c.learning.origin import FORMAT, check_origin
from sb3_a3c.learning.run import run
from sb3_a3c.policies import BoundedMlpPolicy, CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_a3c.policies.aliases import policy_of_name
from sb3_a3c.recording.recording import Recording, RecordNextRun
from sb3_a3c.system.cleanup import CleanupStack
from sb3_a3c.system.cores import usable_cores
from sb3_a3c.system.files import atomic_write, sb3_path
from sb3_a3c.system.torch_threads import survive_fork


class A3C(OnPolicyAlgorithm):
    """
    Asynchronous Advantage Actor Critic (A3C), https://arxiv.org/abs/1602.01783

    Each worker steps its own environments with its own copy of the policy, and applies its gradients to the shared parameters
    without waiting for other workers. With one worker on the torch engine, this is A2C, bit for bit. All arguments up to
    ``device`` are A2C's.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, BoundedMlpPolicy, MlpLstmPolicy, ...)
    :param env: The environment to learn from. With the id of a registered environment, each worker gets one. A VecEnv is
        divided among the workers. A function that makes a batched environment (``gymnasium.vector.VectorEnv``, EnvPool) is
        called once per worker
    :param learning_rate: The learning rate, it can be a function of the current progress remaining (from 1 to 0)
    :param n_steps: The number of steps of each environment between two updates of its worker (t_max in the paper)
    :param gamma: Discount factor
    :param gae_lambda: Factor for trade-off of bias vs variance for Generalized Advantage Estimator.
        Equivalent to classic advantage when set to 1.
    :param ent_coef: Entropy coefficient for the loss calculation, or a sequence, array or tensor with one per worker
    :param vf_coef: Value function coefficient for the loss calculation
    :param max_grad_norm: The maximum value for the gradient clipping
    :param rms_prop_eps: RMSProp epsilon. It stabilizes square root computation in denominator of RMSProp update
    :param use_rms_prop: Whether to use RMSprop (default) or Adam as optimizer. Workers share its statistics
    :param use_sde: Whether to use generalized State Dependent Exploration (gSDE) instead of action noise exploration
    :param sde_sample_freq: Sample a new noise matrix every n steps when using gSDE.
        Default: -1 (only sample at the beginning of the rollout)
    :param rollout_buffer_class: Rollout buffer class to use. If ``None``, it will be automatically selected.
    :param rollout_buffer_kwargs: Keyword arguments to pass to the rollout buffer on creation.
    :param normalize_advantage: Whether to normalize or not the advantage, over the rollout of a worker
    :param stats_window_size: Window size for the rollout logging, specifying the number of episodes to average
        the reported success rate, mean episode length, and mean reward over
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments to be passed to the policy on creation
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: Seed for the pseudo random generators. With one worker, and with the serial backend, runs repeat bit for bit
    :param device: Device (cpu, cuda, ...) on which the code should be run. Unlike in A2C, ``auto`` is the CPU. A GPU is
        used if it is named
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    :param n_workers: The number of asynchronous workers. ``None``: one per environment of a VecEnv, or, for the id of an
        environment, one per usable core. With fast environments, few workers with several environments each are faster
    :param backend: Where workers run: ``"serial"`` (one after another in the thread that calls ``learn()``: repeatable, for
        debugging), ``"thread"``, ``"process"`` (uses all cores) or ``"ray"`` (uses many machines). A single worker always runs
        in the thread that calls ``learn()``. ``"process"`` requires environments that can be pickled, or a SubprocVecEnv, and
        the guard ``if __name__ == "__main__":`` in scripts; ``"ray"`` requires the former, and the extra ``ray``. Callbacks
        access the environments with ``env_method``, ``get_attr`` and ``set_attr``. After learning, the VecEnv holds the copies
    :param backend_kwargs: Options of the backend. ``"process"`` has ``start_method`` (``"forkserver"``, the default,
        ``"spawn"`` or ``"fork"``), ``max_restarts`` (how often workers that have died are replaced, 10 by default) and
        ``worker_timeout`` (seconds after which a worker that has not finished a rollout is killed and replaced, ``None``:
        never). ``"ray"`` has those of ``docs/cluster.rst``. The other backends have no options
    :param engine: How the policy is computed: ``"torch"`` (any policy; the reference), ``"fused"`` (compiled kernels for
        ``MlpPolicy``, ``BoundedMlpPolicy`` and ``MlpLstmPolicy`` without custom parts; equal up to rounding and noise) or
        ``"auto"`` (fused if it supports the policy)
    :param use_locking: Whether updates are atomic, so that none is lost. ``False`` is Hogwild
    :param rollout_order: ``"env"``: callbacks see one step of every environment, in order, as in SB3. ``"arrival"``: callbacks
        see rollouts as they arrive, for environments whose speeds always differ. The local variable ``env_indices`` has the
        environments
    :param max_lead: The number of rollouts that a worker may be ahead of callbacks
    :param max_lead_bytes: Bytes of all rollouts that may wait for callbacks. One rollout per worker is always allowed
    :param std_scale: A factor of the policy's standard deviation, or one per worker, so that workers explore differently. A
        worker acts and learns with its own standard deviation. Requires a policy with a ``log_std`` (Box actions, also
        gSDE). ``predict()`` does not use it
    :param vf_learning_rate: A separate learning rate (or schedule) for the critic. ``None``: ``learning_rate``
    :raises ValueError: if an argument is not allowed
    :raises TypeError: if a subclass overrides a method that A3C does not call, such as ``train()``
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
        "BoundedMlpPolicy": BoundedMlpPolicy,
    }
    ent_coef: PerWorker  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: PerWorker = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        n_workers: int | None = None,
        backend: str = "thread",
        backend_kwargs: dict[str, Any] | None = None,
        engine: str = "auto",
        use_locking: bool = True,
        rollout_order: RolloutOrder = "env",
        max_lead: int = 64,
        max_lead_bytes: int = 2**28,
        std_scale: PerWorker = 1.0,
        vf_learning_rate: float | Schedule | None = None,
    ) -> None:
        check_a2c_arguments(locals())
        if is_constructor(env):
            check_n_workers(n_workers)
            env = make_envs(env, n_workers or usable_cores(), verbose)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,  # type: ignore[arg-type]
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device="cpu" if device == "auto" else device,
            seed=seed,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        if device == "auto" and verbose >= 1 and th.cuda.is_available():
            print("A GPU is available, but A3C uses the CPU; pass device='cuda' to use it")  # noqa: T201, as SB3 prints it
        self.normalize_advantage = normalize_advantage
        self.n_workers = n_workers
        self.backend = backend
        self.backend_kwargs = backend_kwargs
        self.engine = engine
        self.use_locking = use_locking
        self.rollout_order = rollout_order
        self.max_lead = max_lead
        self.max_lead_bytes = max_lead_bytes
        self.std_scale = std_scale
        self.vf_learning_rate = vf_learning_rate
        self.vf_lr_schedule: Schedule | None = None
        #: The hidden state of a recurrent policy after the last step.
        self._last_states: State | None = None
        self._format = FORMAT
        #: Records or replays the next run. It is set within a ``with`` block, and not saved.
        self._next_run: RecordNextRun | Recording | None = None
        # RMSprop rather than the policy's default, Adam, as in A2C
        if use_rms_prop and "optimizer_class" not in self.policy_kwargs:
            self.policy_kwargs["optimizer_class"] = th.optim.RMSprop
            self.policy_kwargs["optimizer_kwargs"] = dict(alpha=0.99, eps=rms_prop_eps, weight_decay=0)

        if _init_setup_model:
            if self.env is not None and Arguments.of(self).resolve_n_workers(self.env) > 1:
                prepare_backend(backend, backend_kwargs)  # while torch loads modules for the policy's optimizer
            self._setup_model()

    def _setup_model(self) -> None:
        check_origin(self, self._format)
        arguments = Arguments.of(self)
        arguments.check()
        survive_fork()
        warn_of_spaces(self.observation_space, self.action_space)
        warn_of_action_masks(self.env, stacklevel=3)
        super()._setup_model()
        arguments.check_policy(self.policy, self.rollout_buffer_class)

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return OnPolicyAlgorithm._wrap_env(wrap_batched(env), verbose, monitor_wrapper)

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        return policy_of_name(policy_name, self.policy_aliases)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        super().set_env(env, force_reset)
        warn_of_action_masks(self.env, stacklevel=2)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_next_run"]

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save the model to a zip file. An old file is replaced when the new one is complete.

        :param path: The path of the zip (``.zip`` is added to a path without a suffix), or an open file
        :param exclude: Names of attributes to exclude in addition to the default ones
        :param include: Names of attributes to include although they are excluded by default
        :raises OSError: if the file can't be written
        """
        if not isinstance(path, str | Path):
            super().save(path, exclude, include)
            return
        with atomic_write(sb3_path(path)) as file:
            super().save(file, exclude, include)  # type: ignore[arg-type]

    def _setup_lr_schedule(self) -> None:
        super()._setup_lr_schedule()
        self.vf_lr_schedule = None if self.vf_learning_rate is None else FloatSchedule(self.vf_learning_rate)

    def learn(
        self,
        total_timesteps: int = 100_000,
        callback: MaybeCallback = None,
        log_interval: int | None = 100,
        tb_log_name: str = "A3C",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """
        Learn, and return when all workers have exited.

        :param total_timesteps: The number of environment steps of all workers together. The last rollout is completed
        :param callback: Callback(s), called in this thread for each step of all environments
        :param log_interval: Rollouts of all environments between two logs, ``None``: no logs
        :param tb_log_name: The name of the run for TensorBoard
        :param reset_num_timesteps: Whether to start at 0 steps, with reset environments, or to continue
        :param progress_bar: Whether to show a progress bar
        :return: The model itself
        :raises ValueError: if there are no environments, if another ``learn()`` is using them, or if an argument is not
            allowed
        :raises BaseException: the error that a worker or a callback raised. The model can be used, and can continue learning
        """
        check_origin(self, self._format)
        check_learn(self, total_timesteps, log_interval)
        if is_importing_the_script():
            warnings.warn(f"learn() is called while a new process imports the script that started it. {GUARD}", stacklevel=2)
        survive_fork()
        stack = CleanupStack()
        with stack, stack:
            stack.enter(Claim(self.env))
            self._compile_kernels()  # before the clock starts that fps is computed from
            stack.enter(SynchronizedPipes(self.env))
            total_timesteps, callback = self._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
            iteration = 0  # callbacks can read it, as in A2C
            callback.on_training_start(locals(), globals())
            if self.num_timesteps < total_timesteps:
                run(self, self._next_run, callback, log_interval, total_timesteps)
            callback.on_training_end()
        return self

    def _compile_kernels(self) -> None:
        assert self.env is not None
        engine = ENGINES[choose_engine(self.engine, self.policy, self.rollout_buffer_class).name]
        compile_kernels(needed(engine.compiled, self.n_workers != 1, self.policy, self.use_locking, self.env))
