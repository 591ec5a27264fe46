"""What the calibrators share: objectives, grids and solvers."""
