"""Data-flow analysis: dimensions, shapes, partial values, channels and tokens followed through a graph."""
