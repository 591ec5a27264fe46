"""Where calibration samples come from."""
