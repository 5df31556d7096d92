"""From the archive to shards: plan, tasks, records and the driver of the pack stage."""
