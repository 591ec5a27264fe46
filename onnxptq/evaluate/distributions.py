"""Facts about a model's activations, as Markdown: softmax and GELU outputs, keys, and the inputs of text linears.

    python -m onnxptq.evaluate.distributions -o docs/distributions.md      the zoo's models on held-out scenes

Kurtosis is excess kurtosis (0 for a normal distribution). `max / 3 sigma` is the largest deviation from the mean over
three standard deviations: how much a min-max range wastes. Of keys, `between channels` is the variance of the channel
means over the whole variance: near 1, each channel sits on its own side; `one-sided` is the share of channels whose
mean exceeds their deviation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.report.text import markdown_table
from onnxptq.running.runner import InnerTensors, Sample, run
from onnxptq.structure import Part, Role, discover

Array = NDArray[Any]
Facts = Callable[[Array], Mapping[str, float]]
SAMPLES = 16


@dataclass(frozen=True)
class DistributionTable:
    """One kind of tensor: a row each."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As a Markdown table."""
        held = markdown_table(self.columns, self.rows, right=range(1, len(self.columns)))
        return f"### {self.title}\n\n{held}\n"


def softmax_facts(x: Array) -> Mapping[str, float]:
    """Of probabilities [..., keys]."""
    return {
        "keys": x.shape[-1],
        "max": x.max(),
        "median of row maxima": np.median(x.max(-1)),
        "below 1/512, %": 100 * (x < 1 / 512).mean(),
        "above 0.01, %": 100 * (x > 0.01).mean(),
        "above 0.5, %": 100 * (x > 0.5).mean(),
    }


def gelu_facts(x: Array) -> Mapping[str, float]:
    """Of a GELU's output."""
    high = np.quantile(x, 0.999)
    return {
        "min": x.min(),
        "max": x.max(),
        "negative, %": 100 * (x < 0).mean(),
        "99.9 % quantile": high,
        "max / quantile": x.max() / high,
        "kurtosis": kurtosis(x),
    }


def key_facts(x: Array, *, heads: int) -> Mapping[str, float]:
    """Of keys [..., heads, tokens, dim] or [batch * heads, tokens, dim]: every head has channels of its own."""
    flat = channels_of(x, heads)
    mean, deviation = flat.mean(0), flat.std(0)
    return {
        "channels": flat.shape[1],
        "between channels": mean.var() / max(float(flat.var()), 1e-12),
        "one-sided, %": 100 * (np.abs(mean) > deviation).mean(),
        "lowest mean": mean.min(),
        "highest mean": mean.max(),
        "kurtosis": kurtosis(x),
        "max / 3 sigma": reach(x),
    }


def text_facts(x: Array) -> Mapping[str, float]:
    """Of the input [..., channels] of a linear of the text encoder."""
    flat = x.reshape(-1, x.shape[-1])
    peaks = np.abs(flat - flat.mean()).max(0)
    return {
        "min": x.min(),
        "max": x.max(),
        "kurtosis": kurtosis(x),
        "max / 3 sigma": reach(x),
        "channels beyond 6 sigma": float((peaks > 6 * flat.std()).sum()),
    }


def kurtosis(x: Array) -> float:
    """Excess kurtosis."""
    z = (x - x.mean(dtype=np.float64)) / max(float(x.std(dtype=np.float64)), 1e-12)
    return float((z**4).mean() - 3)


def reach(x: Array) -> float:
    """Largest deviation over three standard deviations."""
    return float(np.abs(x - x.mean()).max() / max(3 * float(x.std()), 1e-12))


def channels_of(keys: Array, heads: int) -> Array:
    """Keys as [tokens, heads * dim]."""
    split = keys.reshape(-1, heads, *keys.shape[-2:])
    return split.transpose(0, 2, 1, 3).reshape(-1, heads * keys.shape[-1])


def tables(path: str | Path, samples: Sequence[Sample]) -> list[DistributionTable]:
    """The facts of one model, in graph order."""
    model = canonicalise(load(path))
    structure = discover(model)
    attentions, sites = list(structure.attentions.values()), structure.sites
    chosen: dict[str, list[tuple[str, str, Facts]]] = {
        "Softmax outputs": [(a.probabilities, a.name, softmax_facts) for a in attentions],
        "GELU outputs": [(s.tensor, s.consumer, gelu_facts) for s in sites if s.role is Role.GELU],
        "Keys": [(a.k, a.name, partial(key_facts, heads=a.heads)) for a in attentions],
        "Inputs of the text encoder's linears": [
            (s.tensor, s.consumer, text_facts) for s in sites if s.role is Role.LINEAR_INPUT and s.part is Part.TEXT
        ],
    }
    tapped = InnerTensors(model.to_proto)
    found = []
    for title, wanted in chosen.items():
        held = _collect(tapped, list(dict.fromkeys(tensor for tensor, *_ in wanted)), samples)
        rows = [(label, facts(held[tensor])) for tensor, label, facts in wanted]
        if rows:
            columns = ("tensor", *rows[0][1])
            found.append(
                DistributionTable(
                    title, columns, tuple((_short(label), *(f"{v:.3g}" for v in row.values())) for label, row in rows)
                )
            )
    return found


def _collect(tapped: InnerTensors, tensors: list[str], samples: Iterable[Sample]) -> dict[str, Array]:
    """Tensors over all samples, stacked as one batch; where their length varies, those of the greatest length."""
    if not tensors:
        return {}
    parts = list(run(tapped.outputs(tensors), samples))
    found = {}
    for tensor in tensors:
        longest = max(part[tensor].shape[-2] for part in parts)
        found[tensor] = np.concatenate([part[tensor] for part in parts if part[tensor].shape[-2] == longest])
    return found


def _short(name: str) -> str:
    """A node's name without the words that say nothing."""
    parts = [
        p for p in name.strip("/").split("/") if p not in ("Softmax", "MatMul", "MatMul_1", "attn", "image_encoder")
    ]
    return ".".join(parts) or name


def main(words: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    from onnxptq.datasets import zoo
    from onnxptq.running.sessions import session

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    args = parser.parse_args(words)
    encoder = session(zoo.path("sam-mini-encoder"))
    prompts = list(zoo.prompt_samples("val", args.samples))
    inputs: dict[str, list[Any]] = {
        "sam-mini-encoder": [p.encoder_feeds for p in prompts],
        "sam-mini-decoder": [p.decoder_feeds(encoder.run(None, p.encoder_feeds)[0]) for p in prompts],
        "lavt-mini": [r.feeds for r in zoo.ref_samples("refscene", "val", args.samples)],
    }
    about = (__doc__ or "").split("\n\n")
    text = [f"# Activations of the zoo's models\n\n{about[0]} {args.samples} val samples.\n\n{about[2].strip()}\n"]
    for name, samples in inputs.items():
        text += [f"## {name}\n", *(table.markdown() for table in tables(zoo.path(name), samples))]
    args.out.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
