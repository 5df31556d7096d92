"""What is missing here, and how to get it."""
