"""The run file: its model, its presets, and how it is loaded."""
