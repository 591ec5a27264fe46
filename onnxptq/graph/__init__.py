"""The in-memory model: loading, canonical form, shapes, saving."""
