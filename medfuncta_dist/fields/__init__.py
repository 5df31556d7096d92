"""The fields, their coordinates and the shared network's files. Runs on a bare torch installation."""
