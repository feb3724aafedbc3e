"""The shared parameters (theta): how they are laid out in one vector, pulled, pushed and optimized."""
