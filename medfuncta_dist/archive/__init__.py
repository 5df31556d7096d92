"""From an archive as it is to scans: what is in it, what belongs together, what has changed."""
