"""Pre- and post-processing baked into one ONNX file: an RGB image and boxes or a sentence in, masks at image size
out."""
