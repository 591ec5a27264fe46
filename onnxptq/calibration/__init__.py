"""Calibration: sources of samples, mergeable statistics, and the engine that fills them."""
