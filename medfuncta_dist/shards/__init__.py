"""WebDataset shards, their indexes, and the snapshots that list them."""
