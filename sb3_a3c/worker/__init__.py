"""One asynchronous worker: what it is made of, the rollouts that it produces, and its errors."""
