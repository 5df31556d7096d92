"""Two runs compared on the scans that both have: differences with intervals, sizes, settings, the worst losers."""
