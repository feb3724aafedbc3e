"""One asynchronous worker: its specification, its rollouts, its errors, and what callbacks need of them."""
