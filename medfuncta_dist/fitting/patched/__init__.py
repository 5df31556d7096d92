"""Fitting scans that are grids of patches: units, their values, parts and records, and what they come to per scan."""
