"""What a run tells: events, metrics, progress."""
