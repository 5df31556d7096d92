"""Meta-learning: context sets, the inner loop, the exact meta-gradient. Runs on a bare torch installation."""
