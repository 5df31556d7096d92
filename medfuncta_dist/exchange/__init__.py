"""Exchange with the public MedFuncta code: its networks and its latents, read and written in its own layout."""
