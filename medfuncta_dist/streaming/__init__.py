"""From shards to batches: a pure sample order, a verified cache, a WebDataset pipeline."""
