"""The latent table for people and programs: opened lazily, filtered, and given to the libraries that they use."""
