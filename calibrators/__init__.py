"""Searches for the parameters of schemes, one file each; found by walking this package."""

from __future__ import annotations

if __name__ != "onnxptq.calibrators":
    raise ImportError("this folder is imported as onnxptq.calibrators")
