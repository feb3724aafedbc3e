"""
Ray Tune searches the hyperparameters of A3C: ten trials, two at a time, of which the worse are ended early.

Ray starts one process per trial. Within it the workers are threads: the trials use the cores. With backend="ray" each trial
would take cores from the others.

    pip install '.[tune]'
    python examples/ray_tune.py
"""

import argparse
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_a3c import A3C
from sb3_a3c.system.extras import require

ENV_ID = "CartPole-v1"
N_ENVS = 4


class ReportReturn(BaseCallback):
    """
    Reports the mean return of the last episodes to Tune, which may end the trial.

    :param every: Steps between two reports
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        self._every = every

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        from ray import tune

        episodes = self.model.ep_info_buffer
        if self.num_timesteps % self._every < self.model.n_steps * N_ENVS and episodes:  # type: ignore[attr-defined]
            tune.report({"mean_return": sum(episode["r"] for episode in episodes) / len(episodes)})


def trial(config: dict[str, Any]) -> None:
    """
    :param config: The hyperparameters, and how many steps to learn
    """
    timesteps = config.pop("timesteps")
    model = A3C("MlpPolicy", make_vec_env(ENV_ID, N_ENVS), backend="thread", n_workers=2, use_rms_prop=False, **config)
    model.learn(timesteps, ReportReturn(every=timesteps // 20), log_interval=None)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ray Tune searches the hyperparameters of A3C.")
    parser.add_argument("--timesteps", type=int, default=100_000, help="of each trial")
    parser.add_argument("--trials", type=int, default=10)
    args = parser.parse_args()
    require("tune", "This example", "ray", "pandas", "pyarrow", "requests")
    import ray
    from ray import tune

    space = dict(
        learning_rate=tune.loguniform(1e-4, 1e-2),
        n_steps=tune.choice([5, 8, 16, 32]),
        gae_lambda=tune.uniform(0.9, 1.0),
        ent_coef=tune.loguniform(1e-5, 1e-2),
        timesteps=args.timesteps,
    )
    ray.init("local", num_cpus=2, include_dashboard=False)
    results = tune.Tuner(
        trial,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="mean_return", mode="max", num_samples=args.trials, scheduler=tune.schedulers.ASHAScheduler(grace_period=5)
        ),
        run_config=tune.RunConfig(verbose=0),
    ).fit()
    best = results.get_best_result()
    chosen = ", ".join(f"{name}={value:.3g}" for name, value in (best.config or {}).items() if name != "timesteps")
    print(f"best of {len(results)} trials: mean return {(best.metrics or {})['mean_return']:.1f} with {chosen}")
    ray.shutdown()


if __name__ == "__main__":
    main()
