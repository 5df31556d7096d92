"""What only the archive's owner holds: the salt, the mapping from keys to files, the list of the forgotten."""
