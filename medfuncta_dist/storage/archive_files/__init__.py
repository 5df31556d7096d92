"""Zip and tar files as folders of sources: what they hold, and reading it in place."""
