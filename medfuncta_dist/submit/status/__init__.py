"""The status of a run and its jobs: what is recorded, what that means, and how it is shown."""
