"""The catalogue of a latent table: its format, how it is made and written, and how it is read."""
