"""LAVT, the language-aware vision transformer for referring segmentation, to ONNX."""
