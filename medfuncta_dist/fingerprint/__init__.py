"""What an archive holds, from a sample of its scans, and what to write into the run file."""
