"""Training state in storage: when it is saved, how it is uploaded, and how it is read back."""
