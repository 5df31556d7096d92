"""The shared network of a run: from the run file to the compute core, and its committed files."""
