"""Small models of the real architectures, trained on procedural scenes: training, ONNX files, figures."""
