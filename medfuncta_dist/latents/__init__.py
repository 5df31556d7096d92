"""Fitting one latent per scan, and the format of the latent table."""
