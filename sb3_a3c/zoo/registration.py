"""
Registers A3C with rl-zoo3. Checked against rl-zoo3 2.9.2.

rl-zoo3 has no interface for other packages' algorithms. Its tables of algorithms, samplers and converters are dicts, which are
extended here. Two methods of its ``ExperimentManager`` are wrapped: A3C's settings are in a file of this package, and its
``vf_learning_rate`` may be a schedule.
"""

import functools
from collections.abc import Callable
from typing import Any

from sb3_a3c.a3c import A3C
from sb3_a3c.policies.mnih_cnn import MnihCNN
from sb3_a3c.system.extras import require
from sb3_a3c.zoo.models import SETTINGS


def register() -> None:
    """
    Make ``--algo a3c`` known to rl-zoo3 in this process. Does nothing the second time.

    :raises MissingExtra: if rl-zoo3 is not installed
    """
    require("zoo", "sb3_a3c.zoo", "rl_zoo3")
    from rl_zoo3 import ALGOS, exp_manager, hyperparams_opt

    if "a3c" in ALGOS:
        return
    ALGOS["a3c"] = A3C
    hyperparams_opt.HYPERPARAMS_SAMPLER["a3c"] = sample
    hyperparams_opt.HYPERPARAMS_CONVERTER["a3c"] = hyperparams_opt.convert_onpolicy_params
    vars(exp_manager)["MnihCNN"] = MnihCNN  # policy_kwargs are evaluated there
    manager: Any = exp_manager.ExperimentManager
    manager.__init__ = _with_our_settings(manager.__init__)
    manager._preprocess_hyperparams = _with_critic_schedule(manager._preprocess_hyperparams)


def sample(trial: Any, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    Sample A3C's hyperparameters, as rl-zoo3 does those of A2C. Rollouts are shorter: A3C makes many small updates.

    :param trial: Optuna's trial
    :param n_actions: Not used
    :param n_envs: Not used
    :param additional_args: Not used
    :return: Arguments of A3C
    """
    from rl_zoo3.hyperparams_opt import convert_onpolicy_params

    one_minus_gamma = trial.suggest_float("one_minus_gamma", 0.0001, 0.1, log=True)
    sampled = {
        "n_steps_pow": trial.suggest_int("n_steps_pow", 2, 7),  # 4 to 128
        "one_minus_gamma": one_minus_gamma,
        "one_minus_gae_lambda": trial.suggest_float("one_minus_gae_lambda", 0.0001, 0.2, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 5e-3, log=True),
        "ent_coef": trial.suggest_float("ent_coef", 1e-8, 0.1, log=True),
        "vf_coef": trial.suggest_float("vf_coef", 0.2, 1.0),
        "max_grad_norm": trial.suggest_float("max_grad_norm", 0.3, 2.0),
        "normalize_advantage": trial.suggest_categorical("normalize_advantage", [False, True]),
        "net_arch": trial.suggest_categorical("net_arch", ["small", "medium"]),
        "activation_fn": trial.suggest_categorical("activation_fn", ["tanh", "relu"]),
    }
    trial.set_user_attr("gamma", 1 - one_minus_gamma)
    trial.set_user_attr("n_steps", 2 ** sampled["n_steps_pow"])
    return convert_onpolicy_params(sampled)


def _with_our_settings(init: Callable) -> Callable:
    @functools.wraps(init)
    def wrapped(self: Any, args: Any, algo: str, *others: Any, **kwargs: Any) -> None:
        init(self, args, algo, *others, **kwargs)
        if algo == "a3c" and kwargs.get("config") is None and not getattr(args, "conf_file", None):
            self.config = str(SETTINGS)

    return wrapped


def _with_critic_schedule(preprocess: Callable) -> Callable:
    @functools.wraps(preprocess)
    def wrapped(self: Any, hyperparams: dict[str, Any]) -> tuple:
        rate = hyperparams.get("vf_learning_rate")
        if isinstance(rate, str):
            from rl_zoo3.utils import linear_schedule

            hyperparams["vf_learning_rate"] = linear_schedule(rate.removeprefix("lin_"))
        return preprocess(self, hyperparams)

    return wrapped
