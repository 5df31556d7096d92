"""The shared network of a run: run file to compute core, the committed record and its files, and loading it."""
