"""One latent per scan: plan, fit, table."""
