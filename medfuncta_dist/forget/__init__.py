"""Forgetting scans: from a data set, and from everything that runs have made of them."""
