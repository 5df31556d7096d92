"""The map of latents in a report: which scans are on it, where they lie (PCA, UMAP), their colours and pictures."""
