"""Objectives, grids and solvers that the calibrators share."""
