"""One reader per file format, and the registry that chooses among them."""
