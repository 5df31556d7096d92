"""The latent-modulated SIREN. Runs on a bare torch installation."""
