"""Leases: which driver may write, who holds a lease, and compare-and-swap."""
