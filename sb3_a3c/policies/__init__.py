"""The policy names that users type: those of A2C, for A3C learns with the same policies, and one of our own."""

from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy

from sb3_a3c.policies.bounded import BoundedMlpPolicy as BoundedMlpPolicy

MlpPolicy = ActorCriticPolicy
CnnPolicy = ActorCriticCnnPolicy
MultiInputPolicy = MultiInputActorCriticPolicy
