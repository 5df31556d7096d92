"""Archives of medical scans as compact neural representations, at cluster scale."""

__version__ = "0.1.0"
