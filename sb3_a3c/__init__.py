"""A3C (asynchronous advantage actor-critic, Mnih et al. 2016) as an algorithm of Stable-Baselines3."""

from sb3_a3c.a3c import A3C
from sb3_a3c.backends import register_backend
from sb3_a3c.envs.declarations import register_vec_env
from sb3_a3c.envs.vector_vec_env import VectorVecEnv
from sb3_a3c.policies import BoundedMlpPolicy, CnnPolicy, MlpPolicy, MnihCNN, MultiInputPolicy
from sb3_a3c.recording.recording import Recording, record, replay
from sb3_a3c.worker.callback_needs import register_callback
from sb3_a3c.worker.errors import NonFiniteError, WorkerDied

__version__ = "0.1.0"

__all__ = [
    "A3C",
    "BoundedMlpPolicy",
    "CnnPolicy",
    "MlpPolicy",
    "MnihCNN",
    "MultiInputPolicy",
    "NonFiniteError",
    "Recording",
    "VectorVecEnv",
    "WorkerDied",
    "record",
    "register_backend",
    "register_callback",
    "register_vec_env",
    "replay",
]
