"""The basis field's inner loop and its gradient: latents by one exact solve. Runs on a bare torch installation."""
