"""Draw how much faster than A2C each choice is, for choosing.rst, from the tables of two benchmarks."""

from matplotlib import pyplot as plt
from measured import measured

#: What to call a bar, and the row of docs/benchmarks/throughput.rst.
FAST = {
    "1 worker": "A3C, 1 worker",
    "2 threads": "A3C, 2 threads",
    "8 threads": "A3C, 8 threads",
    "2 processes": "A3C, 2 processes",
    "8 processes": "A3C, 8 processes",
    "2 threads, torch engine": "A3C, 2 threads, torch engine",
}
#: What to call a bar, and the row of docs/benchmarks/uneven_envs.rst.
SLOW = {
    "even steps": "even",
    "heavy tails": "heavy tails",
    "slow resets": "slow resets",
    "one ten times slower": "one ten times slower",
}


def draw() -> None:
    fast = {name: measured("throughput", [row, "8 environments"], "By A2C's") for name, row in FAST.items()}
    slow = {name: measured("uneven_envs", [row, "thread"], "A3C / A2C") for name, row in SLOW.items()}
    _, panels = plt.subplots(
        2, 1, figsize=(5.2, 4.4), sharex=True, layout="constrained", height_ratios=[len(fast) + 1, len(slow) + 1]
    )
    titles = ["8 fast environments (Pendulum)", "8 slow environments (2 ms per step)"]
    for axes, title, ratios, colour in zip(panels, titles, (fast, slow), ("#1f77b4", "#2a9d5c"), strict=True):
        bars = axes.barh(list(ratios), list(map(float, ratios.values())), color=colour)
        labels = axes.bar_label(bars, list(ratios.values()), padding=3, fontsize=10)  # as in the tables
        for label in labels:
            label.set_bbox(dict(facecolor="white", edgecolor="none", pad=0.5))  # over the dotted line
        axes.set_title(title, loc="left", fontsize=11)
        axes.axvline(1.0, color="black", linestyle=":", zorder=0)
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.tick_params(labelsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("A3C's steps/s, divided by A2C's (dotted: A2C)", fontsize=10)


draw()
