"""What a worker in another process hands back when a run ends: its environments, and where it is in them."""

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.monitor import ResultsWriter

from sb3_a3c.backends.process.messages import FinalState
from sb3_a3c.backends.process.parcel import pack_return
from sb3_a3c.envs.closing import close_environments
from sb3_a3c.envs.slices import environments_in
from sb3_a3c.worker.worker import Worker


def final_state(worker: Worker, handles: list[Any], was_called: bool) -> tuple[FinalState, Callable[[], str]]:
    """
    :param worker: The worker, which makes no more steps
    :param handles: Of the parcel that its environments came in
    :param was_called: Whether methods of the environments have been called
    :return: Its final state; and a function that closes the environments here, unless that would close something that both
        processes have, and returns a message if one could not be closed
    """
    lost = ""
    env: bytes | None = None
    used: list[Any] = []
    try:
        with worker.env_lock:  # an interrupted call may still be using them
            env = pack_return(worker.env, handles, used)
    except Exception as error:
        lost = f"{type(error).__name__}: {error}"
    environments = environments_in(worker.env)
    # If copies have made no step, the originals are in the same state. If a copy has failed, it may not be whole.
    untouched = bool(environments) and not worker.has_stepped and (worker.failed or not was_called)
    if untouched:
        env, lost = None, ""
    shares = not all(isinstance(handle, ResultsWriter) for handle in used)

    def close() -> str:
        with worker.env_lock:
            failures = [] if shares else close_environments(environments)
        return failures[0] if failures and not untouched else ""

    return FinalState(env, lost, shares, worker.last_obs, worker.last_episode_starts, worker.state, worker.failed), close
