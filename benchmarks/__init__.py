"""Reproducible comparisons: interleaved ratios, never absolute times."""
