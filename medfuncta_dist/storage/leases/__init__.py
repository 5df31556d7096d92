"""Who may write: leases, their holders, and compare-and-swap."""
