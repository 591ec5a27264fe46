"""Task metrics of ONNX models, FP32 and quantized side by side, on the scenes of the zoo and on real data sets."""
