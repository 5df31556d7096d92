"""Finding what is missing or misconfigured, and how to fix it."""
