"""What training reports: numbers, events, warnings, and what earlier attempts left."""
