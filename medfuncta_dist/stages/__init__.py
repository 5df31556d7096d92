"""One file per stage: preflight, then the stage, then its summary."""
