"""The policies that A3C learns with: those of A2C, BoundedMlpPolicy, and sb3_contrib's recurrent ones; and MnihCNN."""

from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy

from sb3_a3c.policies.bounded import BoundedMlpPolicy as BoundedMlpPolicy
from sb3_a3c.policies.mnih_cnn import MnihCNN as MnihCNN

MlpPolicy = ActorCriticPolicy
CnnPolicy = ActorCriticCnnPolicy
MultiInputPolicy = MultiInputActorCriticPolicy
