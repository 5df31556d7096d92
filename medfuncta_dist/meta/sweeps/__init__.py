"""The hand-written sweeps over points: forward, gradient by the latent, and along a direction."""
