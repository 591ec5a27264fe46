"""Targets: where a file will run, and so how it is quantized and written. One data file each."""
