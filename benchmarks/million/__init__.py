"""Parts of ``benchmarks/million_scans.py``."""
