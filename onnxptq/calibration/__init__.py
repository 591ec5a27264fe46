"""Calibration: sources of samples, mergeable summaries, and the engine that fills them."""
