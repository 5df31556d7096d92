"""What latents say of a label or a measurement, beside the same classifiers on PCA of pixels and on small scans."""
