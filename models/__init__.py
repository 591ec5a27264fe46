"""Real architectures to ONNX: SAM, LAVT, BERT, and the zoo of small trained models."""

from __future__ import annotations

if __name__ != "onnxptq.models":
    raise ImportError("this folder is imported as onnxptq.models")
