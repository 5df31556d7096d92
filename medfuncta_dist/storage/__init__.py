"""URIs in, bytes out: the object store, digests and commit records."""
