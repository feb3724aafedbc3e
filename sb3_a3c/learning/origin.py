"""Checks of where a model comes from: the zip that it was loaded from, and its class."""

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

#: Format of a saved model. To be increased when an older A3C could not continue with it.
FORMAT = 1
#: Attributes of other on-policy algorithms' models that A2C's do not have.
_FOREIGN = ("batch_size", "n_epochs", "clip_range")
#: Methods that SB3's on-policy algorithms call and A3C does not: what to do instead of overriding them.
_NEVER_CALLED = {
    "train": "a policy class with its own evaluate_actions(), an optimizer_class in policy_kwargs, or a callback",
    "collect_rollouts": "a callback, a wrapper around the environments, or a rollout_buffer_class",
    "_update_learning_rate": "a function of the progress remaining for learning_rate",
    "_update_current_progress_remaining": "a function of the progress remaining for learning_rate",
}


def check_origin(model: OnPolicyAlgorithm, saved_format: int) -> None:
    """
    :param model: A model, new or loaded. It may have no policy yet
    :param saved_format: The format of its zip
    :raises ValueError: if this A3C can't continue with it
    :raises TypeError: if its class overrides a method that A3C does not call
    """
    policy_class = model.policy_class
    if "MaskableActorCriticPolicy" in [base.__name__ for base in getattr(policy_class, "__mro__", ())]:
        raise ValueError(
            f"policy must be one without action masks, but it is {policy_class!r}: A3C does not support action masks. Use "
            "MaskablePPO from sb3_contrib"
        )
    if not (isinstance(policy_class, type) and issubclass(policy_class, ActorCriticPolicy)):
        raise ValueError(
            "policy must be a name such as 'MlpPolicy', or a class of actor-critic policies, but it is "
            f"{policy_class!r}. (If the model was loaded, its zip must be A3C's or A2C's)"
        )
    if foreign := [name for name in _FOREIGN if name in vars(model)]:
        raise ValueError(f"path must be a zip of A3C or A2C, but it is another algorithm's: it has {', '.join(foreign)}")
    if saved_format > FORMAT:
        raise ValueError(
            f"path must be a zip of a format up to {FORMAT}, but its format is {saved_format}: it was saved by a newer sb3_a3c"
        )
    for name, instead in _NEVER_CALLED.items():
        if name in vars(model) or getattr(type(model), name) is not getattr(OnPolicyAlgorithm, name):
            raise TypeError(
                f"{name}() must not be overridden, but {type(model).__name__} overrides it: that has no effect, because A3C's "
                f"workers collect rollouts and learn from them by themselves. Use {instead} instead"
            )
