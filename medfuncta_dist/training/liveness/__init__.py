"""Which ranks are alive and which hang."""
