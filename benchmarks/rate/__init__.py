"""The parts of ``benchmarks/rate_distortion.py``: volumes and masks, coders behind one interface, curves."""
