"""Verify and repair everything that is stored: shards, checkpoints, networks and latents."""
