"""The main thread's half of one ``learn()``: it starts the workers and replays their rollouts to callbacks and logger."""
