"""From latents back to scans, and how good they are."""
