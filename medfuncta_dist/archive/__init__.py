"""The archive before anything is packed: its private inventory, and how it has changed since the last pack."""
