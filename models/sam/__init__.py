"""Segment Anything to ONNX: image encoder, and a decoder that gives all four masks for a batch of prompts."""
