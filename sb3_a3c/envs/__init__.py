"""The environments of one worker: a slice of the user's VecEnv, its normalization, and access to it between two steps."""
