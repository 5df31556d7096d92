"""S3: one client per process, reads, writes and listings."""
