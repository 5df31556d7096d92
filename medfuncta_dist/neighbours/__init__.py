"""Which scans are alike: distances between latents, an index of them in storage, and near-duplicates."""
