"""Checking a RayJob before it is sent: schemas and rules."""
