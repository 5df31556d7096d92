"""The fit stage across many workers: plan, tasks, ledger and driver."""
