"""A generative model over a run's latents: new scans, marked as such, that are copies of no training scan."""
