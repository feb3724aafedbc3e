"""Draw why many environments replace a replay memory, for algorithm.rst: states of Pendulum, with random actions."""

import gymnasium as gym
import numpy as np
from matplotlib import pyplot as plt

#: As many successive states of one environment as environments at one moment, from the 50th step on.
N_STATES, FIRST_STEP = 16, 50


def visited_states(n_steps: int, seed: int) -> np.ndarray:
    """
    :param n_steps: How many steps
    :param seed: The seed of the environment and of its random actions
    :return: Angle in radians and angular velocity after each step, ``(n_steps, 2)``
    """
    env = gym.make("Pendulum-v1")
    env.reset(seed=seed)
    env.action_space.seed(seed)
    states = []
    for _ in range(n_steps):
        (cosine, sine, velocity), *_ = env.step(env.action_space.sample())
        states.append((np.arctan2(sine, cosine), velocity))
    env.close()
    return np.array(states)


def draw() -> None:
    successive = visited_states(FIRST_STEP + N_STATES, seed=0)[FIRST_STEP:]
    at_one_moment = np.array([visited_states(FIRST_STEP, seed)[-1] for seed in range(N_STATES)])
    _, panels = plt.subplots(1, 2, figsize=(5.2, 2.7), sharex=True, sharey=True, layout="constrained")
    titles = [f"{N_STATES} steps of one environment", f"one step of {N_STATES} environments"]
    for axes, title, states in zip(panels, titles, (successive, at_one_moment), strict=True):
        axes.plot(*states.T, "o", markersize=5)
        axes.set_title(title, fontsize=10)
        axes.set(xlim=(-np.pi, np.pi), ylim=(-8, 8))
        axes.set_xticks([-np.pi, 0, np.pi], [r"$-\pi$", "0", r"$\pi$"])
        axes.set_xlabel("angle", fontsize=10)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("angular velocity", fontsize=10)


draw()
