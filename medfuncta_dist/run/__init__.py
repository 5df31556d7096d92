"""A run as it is frozen: its run file, what is settled when it starts, its lease, its records and its progress."""
