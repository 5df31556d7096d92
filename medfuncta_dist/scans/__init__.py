"""From files of any format to canonical scans. Nothing that could name a patient leaves this package."""
