"""Heartbeats: which ranks are alive and which hang."""
