"""What training reports: numbers, events, warnings, and the ends of previous attempts."""
