"""Readers of the data sets that calibration and evaluation use, and the procedural scenes of the zoo."""
