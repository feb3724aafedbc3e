"""Whether callbacks look at what is learned from, or only count steps."""

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, ProgressBarCallback


def watches(callback: BaseCallback) -> bool:
    """
    To put a step together for callbacks takes longer than to make it, so it is not done for those which don't look at it:
    no callback, and SB3's progress bar. Their ``on_step()`` is called all the same.

    :param callback: The callback of a call of ``learn()``
    :return: Whether it may read local variables, the policy or the environments
    """
    kind = type(callback)  # a subclass may do more
    if kind is CallbackList:
        return any(watches(part) for part in callback.callbacks)  # type: ignore[attr-defined]
    if kind is ConvertCallback:
        return callback.callback is not None  # type: ignore[attr-defined]
    return kind is not ProgressBarCallback
