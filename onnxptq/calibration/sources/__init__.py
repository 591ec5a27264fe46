"""Sources of calibration samples."""
