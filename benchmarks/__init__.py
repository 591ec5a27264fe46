"""Comparisons anyone can re-run: interleaved ratios, never absolute times."""
