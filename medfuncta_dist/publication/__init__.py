"""Publishing: a run's latents, network and data card as a folder that others use without this package."""
