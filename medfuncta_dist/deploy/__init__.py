"""What a cluster needs before it runs jobs, written into a folder: manifests, pages, and the image's build context."""
