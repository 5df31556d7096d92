"""One file a stage: preflight, then the stage, then its summary."""
