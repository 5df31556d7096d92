"""The latent table of scans that are grids of patches: a row per patch, and a row per scan."""
