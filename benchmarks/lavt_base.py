"""Cost of the search of `ptq4ris` on a 480-pixel LAVT-Base: `python -m benchmarks.lavt_base FOLDER [--samples N]`.

One Swin block of each stage (window 12; random weights and inputs, which hardly change the cost) is calibrated alone on
one thread; its time multiplied by the stage's depth gives the image encoder. Gradients of the whole model cost as much
as those of its parts together. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import peak_mib
from onnxptq.models.export import export
from onnxptq.models.lavt.config import LavtConfig
from onnxptq.models.lavt.swin import SwinBlock
from onnxptq.quantizer import Quantizer
from onnxptq.report.text import markdown_table

BASE = LavtConfig()


class Block(nn.Module):
    """A shifted block of a stage, whose output goes through a norm as it does in the backbone."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.side, self.width = BASE.image_size // 4 // 2**stage, BASE.embed_dim * 2**stage
        self.block = SwinBlock(
            self.width, BASE.num_heads[stage], BASE.window, True, BASE.mlp_ratio[stage], self.side, BASE.fit_windows
        )
        self.norm = nn.LayerNorm(self.width)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, side * side, width]."""
        found: Tensor = self.norm(self.block(x, self.side, self.side))
        return found


def inputs(block: Block, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Tokens whose channels differ in size."""
    scale = np.exp(np.random.default_rng(0).normal(0, 1, block.width))
    for rng in map(np.random.default_rng, range(count)):
        yield {"x": (rng.normal(0, 1, (1, block.side**2, block.width)) * scale).astype(np.float32)}


def seconds(folder: Path, stage: int, bits: str, samples: int) -> tuple[Block, float, int]:
    """CPU seconds of calibrating one block, and its number of sites."""
    torch.manual_seed(stage)
    block = Block(stage)
    path = folder / f"block-{stage + 1}.onnx"
    export(block, {"x": torch.randn(1, block.side**2, block.width)}, ["y"], path)
    quantizer = Quantizer(path, recipe="ptq4ris", bits=bits, threads=1)
    start = time.process_time()
    plan = quantizer.calibrate(inputs(block, samples))
    return block, time.process_time() - start, len(plan)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--bits", default="w4a4")
    parser.add_argument("--stages", nargs="+", type=int, default=[1, 2, 3, 4])
    args = parser.parse_args()
    lines, whole = [], 0.0
    for stage in (n - 1 for n in args.stages):
        block, spent, sites = seconds(args.folder, stage, args.bits, args.samples)
        whole += spent * BASE.depths[stage]
        lines.append(
            [
                *map(
                    str,
                    (stage + 1, f"{block.side} x {block.side}", block.width, sites, round(spent), BASE.depths[stage]),
                )
            ]
        )
    print(markdown_table(["stage", "tokens", "width", "sites", "CPU s a block", "blocks"], lines))
    print(f"All blocks of these stages: {whole / 60:.0f} CPU minutes, {peak_mib():.0f} MiB.")


if __name__ == "__main__":
    main()
