"""Latents stored as entropy-coded whole numbers, in the metric of images (docs/method.md, 10)."""
