"""Equivalence passes: exact in real arithmetic, each verified by running before and after."""
