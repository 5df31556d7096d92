"""The archive before anything is packed: what is in it (the private inventory), how it has changed since the last pack,
and which images belong together."""
