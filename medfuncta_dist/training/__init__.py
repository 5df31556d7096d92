"""Meta-learning the shared network: Ray Train coordinates, DeepSpeed shards the state."""
