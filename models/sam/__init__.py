"""Segment Anything to ONNX: image encoder, and a decoder that returns all four masks for a batch of prompts."""
