"""The whole job on this machine: an S3 server of its own, a real scan, and the same stages as on a cluster."""
