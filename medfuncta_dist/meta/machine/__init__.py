"""How the core computes on a machine: products, compilation, memory, and the check that both agree."""
