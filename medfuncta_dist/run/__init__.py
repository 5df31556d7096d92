"""A run as it is frozen: its run file, what is settled at its start, its lease, its records and its progress."""
