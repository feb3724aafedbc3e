"""A worker in its own process or in an actor of Ray. It is made there, and its environments are sent back."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.utils import set_random_seed

from sb3_a3c.backends.process.failures import Failure
from sb3_a3c.backends.process.messages import EnvCall, EnvResult, FinalState, encode
from sb3_a3c.backends.process.parcel import note_of_cloudpickle, pack_return, unpack
from sb3_a3c.envs.closing import close_environments
from sb3_a3c.envs.pipes import discard_answers
from sb3_a3c.envs.slices import environments_in, is_reset_by_pickling
from sb3_a3c.parameters.protocol import Parameters
from sb3_a3c.system.notes import add_note
from sb3_a3c.worker.spec import WorkerSpec
from sb3_a3c.worker.worker import Worker


class SeparateWorker(Worker):
    """
    :param spec: The specification of the worker
    :param parameters: The shared parameters
    :param handles: Of the parcel that its environments came in
    :param number: Which process of the worker this is, from 0
    :param note: Added to what an environment raises in the first step or reset
    """

    def __init__(self, spec: WorkerSpec, parameters: Parameters, handles: list[Any], number: int, note: str) -> None:
        if (seed := spec.seed) is not None:
            if number > 0:  # no process repeats the noise of the one before
                assert isinstance(seed.entropy, int)
                seed = np.random.SeedSequence([seed.entropy, number], spawn_key=seed.spawn_key)
            # Processes forked from one server begin with the same global generators, which environments may draw from.
            set_random_seed(int(seed.generate_state(1)[0]))
            spec = replace(spec, seed=seed)
        super().__init__(spec, parameters, nullcontext())  # nothing else computes in this process
        self.note_at_first_use = note + note_of_cloudpickle()
        self._handles = handles
        #: Whether methods of the environments have been called.
        self._was_called = False
        if number > 0:
            discard_answers(self.env, None)
        if number > 0 or is_reset_by_pickling(self.env):
            self.reset_envs()

    def call_env(self, call: EnvCall) -> bytes:
        """
        :param call: What to do with the environments between two steps
        :return: The :class:`EnvResult`, encoded
        """
        try:
            with self.env_lock:
                self._was_called = True
                value = getattr(self.env.unwrapped, call.method)(*call.args, **call.kwargs)
                return encode(EnvResult(call.number, value))
        except BaseException as error:
            return encode(EnvResult(call.number, None, Failure.of(error)))

    def final_state(self) -> tuple[FinalState, Callable[[], str]]:
        """
        To be called when it makes no more steps.

        :return: What it hands back; and a function that closes the environments here, unless that would close something that
            both processes have, and returns a message if one could not be closed
        """
        lost = ""
        env: bytes | None = None
        used: list[Any] = []
        try:
            with self.env_lock:  # an interrupted call may still be using them
                env = pack_return(self.env, self._handles, used)
        except Exception as error:
            lost = f"{type(error).__name__}: {error}"
        environments = environments_in(self.env)
        # If copies have made no step, the originals are in the same state. If a copy has failed, it may not be whole.
        untouched = bool(environments) and not self._collector.has_stepped and (self.failed or not self._was_called)
        if untouched:
            env, lost = None, ""
        shares = not all(isinstance(handle, ResultsWriter) for handle in used)

        def close() -> str:
            with self.env_lock:
                failures = [] if shares else close_environments(environments)
            return failures[0] if failures and not untouched else ""

        return FinalState(env, lost, shares, self.last_obs, self.last_episode_starts, self.state, self.failed), close


def unpack_assignment(content: bytes, handles: list[Any], note: str) -> Any:
    """
    :param content: What the process was started with, see :func:`unpack`
    :param handles: See :func:`unpack`
    :param note: Added to what an environment raises
    :return: The unpickled content
    """
    try:
        return unpack(content, handles)
    except Exception as error:
        what = "raised while the environments, or something else that the worker needs, were unpickled. "
        add_note(error, f"{what}{note}{note_of_cloudpickle()}")
        raise
