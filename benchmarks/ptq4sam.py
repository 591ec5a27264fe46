"""PTQ4SAM, its parts and its baselines on the embedded SAM: `python -m benchmarks.ptq4sam FOLDER [--bits ...]`.

Option `--rows` selects rows. Encoder and decoder are both quantized, and scored on the boxes of validation scenes: mean
IoU with the truth, agreement (mean IoU with FP32's masks), and SQNR of the mask logits. A second decoder has its keys
shifted by +8 or -8 in each channel, which a softmax cancels: in FP32 it is the same model, but its keys have two modes.
Finished rows are kept in FOLDER, so an interrupted run continues; `--table` only prints them as Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxptq.calibration.sources.split import extra
from onnxptq.datasets import zoo
from onnxptq.evaluate.overlap import Agreement, MaskScore
from onnxptq.evaluate.predictors import SamPredictor
from onnxptq.evaluate.records import read_record, write_record
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.lower import native
from onnxptq.passes.linears import shift_output
from onnxptq.quantizer import Quantizer
from onnxptq.report.text import markdown_table
from onnxptq.running.metrics import metrics
from onnxptq.running.sessions import session
from onnxptq.structure import discover

BITS = ("w4a4", "w3a3", "w6a6", "w4a8", "w8a8")
MODELS = ("plain", "shifted")
SCENES, IMAGES, SHIFT = 90, 32, 8.0
EDGE = 2.0
"""Logits below this size are at the edge of a mask; the records hold their mean change as ``shift``."""
ASKED = IMAGES + extra(IMAGES, selecting=True)
"""Samples to calibrate, and those that selection and report hold back."""
Array = NDArray[Any]


@dataclass(frozen=True)
class Row:
    """A recipe with settings; ``encoder`` names a row that makes the same encoder."""

    recipe: str
    settings: dict[str, str] = field(default_factory=dict)
    encoder: str = ""
    encoder_settings: dict[str, str] = field(default_factory=dict)
    """More settings of the encoder."""


SHORT = {"weights.iterations": "300", "weights.lr": "0.01"}
"""Learned rows: minutes on a CPU where the papers' 20,000 iterations a unit at a tenth of the rate take days."""
ROWS = {
    "minmax": Row("minmax"),
    "percentile": Row("percentile"),
    "omse": Row("omse"),
    "ptq4sam-s": Row("ptq4sam-s"),
    "without bimodal": Row("ptq4sam-s", {"bimodal": "off"}, "ptq4sam-s"),
    "without agq": Row("ptq4sam-s", {"agq": "off"}),
    "without either": Row("ptq4sam-s", {"bimodal": "off", "agq": "off"}, "without agq"),
    "without agq, softmax by omse": Row("ptq4sam-s", {"agq": "off", "softmax.calibrator": "omse"}),
    "log2": Row("ptq4sam-s", {"softmax": "log2"}),
    "every attention mirrored": Row("ptq4sam-s", {"pass.bimodal.scope": "all"}, "ptq4sam-s"),
    "center-keys": Row("ptq4sam-s", {"passes": "fold-bn,center-keys"}),
    "auto": Row("auto"),
    "search on the map": Row("ptq4sam-s", {"objective": "map"}),
    "finer tau": Row("ptq4sam-s", {"tau": "fine"}),
    "exponent 2": Row("ptq4sam-s", {"exponent": "2.0"}),
    "average extrema": Row("ptq4sam-s", {"observer": "avgminmax"}, encoder_settings={"keys": "avgminmax"}),
    "adaround": Row("adaround", SHORT),
    "brecq": Row("brecq", SHORT),
    "qdrop": Row("qdrop", SHORT),
    "ptq4sam-l": Row("ptq4sam-l", SHORT),
    "ptq4sam-l without dropping": Row("ptq4sam-l", SHORT | {"weights.drop": "0.0"}),
    "ptq4sam-l without bimodal": Row("ptq4sam-l", SHORT | {"bimodal": "off"}, "ptq4sam-l"),
    "ptq4sam-l without agq": Row("ptq4sam-l", SHORT | {"agq": "off"}),
}


class Predictor(SamPredictor):
    """Caches the embeddings of scenes, which many decoders read, and the logits of the last boxes."""

    def __init__(self, encoder: Path, decoder: Path | bytes, kept: dict[bytes, Array]) -> None:
        super().__init__(encoder, decoder, threads=1)
        self._kept, self.logits = kept, np.zeros(0, np.float32)

    def embed(self, planes: Array) -> Array:
        """See SamPredictor."""
        key = hashlib.sha256(planes.tobytes()).digest()
        if key not in self._kept:
            self._kept[key] = super().embed(planes)
        return self._kept[key]

    def decode(self, embeddings: Array, boxes: Array) -> tuple[Array, Array]:
        """See SamPredictor."""
        found = super().decode(embeddings, boxes)
        self.logits = found[0]
        return found


def shifted(decoder: Path) -> onnx.ModelProto:
    """The decoder with +8 or -8 added to each channel of the keys of its attentions."""
    model = canonicalise(load(decoder))
    structure, rng = discover(model), np.random.default_rng(0)
    for attention in structure.attentions.values():
        assert attention.k_source is not None
        linear = structure.linears[attention.k_source.linear]
        shift_output(model, linear, SHIFT * rng.choice([-1.0, 1.0], linear.outputs))
    return model.to_proto()


class Bench:
    """The folder, and the data shared by all rows."""

    def __init__(self, folder: Path, scenes: int) -> None:
        self.folder, self.scenes = folder, list(zoo.prompt_samples("val", scenes))
        folder.mkdir(parents=True, exist_ok=True)
        self.encoder = zoo.path("sam-mini-encoder")
        self.decoders = {"plain": zoo.path("sam-mini-decoder"), "shifted": folder / "shifted-decoder.onnx"}
        if not self.decoders["shifted"].exists():
            onnx.save_model(shifted(self.decoders["plain"]), self.decoders["shifted"])
        self.kept: dict[Path, dict[bytes, Array]] = {}
        self.samples: dict[str, list[dict[str, Array]]] = {}
        self.reference = list(self.predict(self.encoder, self.decoders["plain"]))

    def predict(self, encoder: Path, decoder: Path) -> Iterator[tuple[Array, Array]]:
        """Masks and logits of every scene."""
        predictor = Predictor(encoder, decoder, self.kept.setdefault(encoder, {}))
        for scene in self.scenes:
            masks = predictor.masks(scene.image.transpose(1, 2, 0), scene.boxes).masks
            yield masks, predictor.logits

    def score(self, encoder: Path, decoder: Path) -> dict[str, float]:
        """The figures of a pair of models."""
        score, agreement, errors, shifts = MaskScore(), Agreement(), [], []
        for scene, (masks, logits), (true_masks, true_logits) in zip(
            self.scenes, self.predict(encoder, decoder), self.reference, strict=True
        ):
            score.add(masks, scene.masks)
            agreement.add(true_masks, masks)
            errors.append(metrics(true_logits, logits).sqnr)
            shifts.append(float((logits - true_logits)[np.abs(true_logits) < EDGE].mean()))
        figures = {"agreement": agreement.percent, "SQNR": float(np.median(errors)), "shift": float(np.mean(shifts))}
        return score.summary() | figures

    def calibration(self, part: str) -> list[dict[str, Array]]:
        """Inputs of scenes of the train split; the decoder's from FP32 embeddings."""
        if part not in self.samples:
            encoder = session(self.encoder, threads=1)
            self.samples[part] = list(
                zoo.encoder_calibration(ASKED) if part == "encoder" else zoo.decoder_calibration(encoder, ASKED)
            )
        return self.samples[part]

    def quantized(self, part: str, source: Path, name: str, bits: str) -> Path:
        """The quantized model, written where it is missing, with the reports of the passes."""
        row, path = ROWS[name], self.folder / f"{source.stem}-{name.replace(' ', '-')}-{bits}.onnx"
        if not path.exists():
            start = time.process_time()
            settings = row.settings | (row.encoder_settings if part == "encoder" else {})
            quantizer = Quantizer(source, recipe=row.recipe, bits=bits, settings=settings, threads=1)
            plan = quantizer.calibrate(self.calibration(part), limit=IMAGES)
            proto = native.lower(quantizer.model, quantizer.structure, plan).proto
            done = [change.what for change in quantizer.changes if change.done]
            write_record(path.with_suffix(".log.json"), {"seconds": time.process_time() - start, "changes": done})
            onnx.save_model(proto, path.with_suffix(".partial"))
            path.with_suffix(".partial").replace(path)
        return path

    def measure(self, model: str, name: str, bits: str) -> None:
        """Make a row's record."""
        encoder = self.quantized("encoder", self.encoder, ROWS[name].encoder or name, bits)
        decoder = self.quantized("decoder", self.decoders[model], name, bits)
        write_record(record(self.folder, model, name, bits), self.score(encoder, decoder))


def record(folder: Path, model: str, name: str, bits: str) -> Path:
    """File of a row's figures."""
    return folder / f"{model}-{name.replace(' ', '-')}-{bits}.json"


def table(folder: Path, bits: Sequence[str]) -> str:
    """Mean IoU and agreement of every row, a table for each model."""
    parts = []
    for model in MODELS:
        lines = []
        for name in ROWS:
            cells = [cell(read_record(record(folder, model, name, width))) for width in bits]
            lines += [[name, *cells]] if any(c != "-" for c in cells) else []
        whole = cell(read_record(record(folder, model, "fp32", "w32a32")))
        parts.append(f"{model} keys, FP32 {whole}:\n\n" + markdown_table(["", *bits], lines))
    return "\n\n".join(parts)


def cell(found: dict[str, float]) -> str:
    """IoU, shares above .75 and .9, agreement, SQNR."""
    if not found:
        return "-"
    shares = f"{found['P@0.75']:.1f}, {found['P@0.9']:.1f}"
    return f"**{found['mIoU']:.2f}** ({shares}) · {found['agreement']:.1f} · {found['SQNR']:.1f} dB"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bits", nargs="+", default=BITS)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        bench = Bench(args.folder, args.scenes)
        for model in MODELS:
            if not (path := record(args.folder, model, "fp32", "w32a32")).exists():
                write_record(path, bench.score(bench.encoder, bench.decoders[model]))
        for bits in args.bits:
            for name in args.rows:
                for model in args.models:
                    if not record(args.folder, model, name, bits).exists():
                        bench.measure(model, name, bits)
                        print(model, name, bits, cell(read_record(record(args.folder, model, name, bits))), flush=True)
    print(table(args.folder, args.bits))


if __name__ == "__main__":
    main()
