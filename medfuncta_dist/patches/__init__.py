"""A scan as a grid of patches: where they lie, and how they are put together again. Pure; NumPy only."""
