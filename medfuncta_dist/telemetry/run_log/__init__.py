"""The log of a run, kept in its storage while it runs: what its processes say, redacted, in small numbered chunks."""
