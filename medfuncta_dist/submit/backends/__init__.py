"""The places that run jobs: one interface, one class per backend, and the registry of them by name."""
