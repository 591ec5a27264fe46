"""Use a quantized SAM with plain onnxruntime: this file does not need onnxptq.

    python examples/plain_onnxruntime.py encoder.w8a8.onnx decoder.w8a8.onnx picture.png 20,30,90,110 mask.png

The box is x0,y0,x1,y1 in pixels of the picture. With onnxptq installed, registering its library (the path that
``onnxptq library`` prints) makes the same files faster:

    options.register_custom_ops_library(path)
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime as ort
from PIL import Image

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)


def main(encoder: str, decoder: str, picture: str, box: str, output: str) -> None:
    """Write the mask of the object in ``box`` as a black and white picture."""
    options = ort.SessionOptions()
    encode = ort.InferenceSession(encoder, options, providers=["CPUExecutionProvider"])
    decode = ort.InferenceSession(decoder, options, providers=["CPUExecutionProvider"])
    side = encode.get_inputs()[0].shape[-1]

    image = Image.open(picture).convert("RGB")
    scale = side / max(image.size)
    small = image.resize((round(image.width * scale), round(image.height * scale)))
    pixels = np.zeros((1, 3, side, side), np.float32)
    pixels[0, :, : small.height, : small.width] = ((np.asarray(small) - MEAN) / DEVIATION).transpose(2, 0, 1)
    embeddings = encode.run(None, {encode.get_inputs()[0].name: pixels})[0]

    corners = np.array(box.split(","), np.float32).reshape(1, 2, 2) * scale
    prompts = {
        "image_embeddings": embeddings,
        "point_coords": corners,
        "point_labels": np.array([[2, 3]], np.float32),  # top left and bottom right of a box
    }
    logits = decode.run(None, prompts)[0][0, 0]
    whole = Image.fromarray(logits).resize((side, side), Image.Resampling.BILINEAR)
    mask = whole.crop((0, 0, small.width, small.height)).resize(image.size, Image.Resampling.BILINEAR)
    Image.fromarray((np.asarray(mask) > 0).astype(np.uint8) * 255).save(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
