"""Runs of Weights & Biases: their ids, what earlier attempts logged, and the client that writes them."""
