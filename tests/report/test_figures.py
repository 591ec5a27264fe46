"""Figures: keys before and after the passes, shares of softmax outputs, one page."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from onnxptq.calibration.engine import Engine
from onnxptq.calibration.sources.inputs import input_specs
from onnxptq.calibration.sources.opening import open_source
from onnxptq.datasets import zoo
from onnxptq.plan import Plan
from onnxptq.quantizer import Quantizer
from onnxptq.report.figures import SMALL, Figures, gather, page
from onnxptq.running.runner import InnerTensors, run
from onnxptq.running.sessions import session
from onnxptq.structure import Role


@pytest.fixture(scope="module")
def samples() -> list[dict[str, np.ndarray]]:
    return list(zoo.decoder_calibration(session(zoo.path("sam-mini-encoder"), threads=1), 2))


@pytest.fixture(scope="module")
def quantizer(samples: list[dict[str, np.ndarray]]) -> Quantizer:
    """Folded, and nothing else."""
    q = Quantizer(
        zoo.path("sam-mini-decoder"), recipe="ptq4sam-s", settings={"passes": "center-keys"}, plan=Plan({}), threads=1
    )
    q.calibrate(samples)
    return q


@pytest.fixture(scope="module")
def figures(quantizer: Quantizer, samples: list[dict[str, np.ndarray]]) -> Figures:
    found = quantizer.prepared
    engine = Engine(
        found.model, open_source(samples, inputs=input_specs(found.model, found.structure.masks)), threads=1
    )
    return gather(
        found.model,
        found.structure,
        quantizer.model,
        quantizer.structure,
        quantizer.changes,
        lambda model, requests: engine.fill(requests, stage="figures", model=model),
    )


def test_shares_of_softmax_outputs(
    quantizer: Quantizer, figures: Figures, samples: list[dict[str, np.ndarray]]
) -> None:
    structure = quantizer.prepared.structure
    names = [one.probabilities for one in structure.attentions.values()]
    held = list(run(InnerTensors(quantizer.prepared.model.to_proto()).outputs(names), samples))
    assert len(figures.attentions) == len(names) == 7
    for one in figures.attentions:
        values = np.concatenate([sample[structure.attentions[one.name].probabilities].ravel() for sample in held])
        assert one.above == pytest.approx((values > SMALL).mean(), abs=2e-3)
        assert sum(one.softmax.counts) == values.size


def test_keys_before_and_after(quantizer: Quantizer, figures: Figures) -> None:
    for one in figures.attentions:
        assert one.said[0].startswith("center-keys: keys centred")
        before, after = np.array(one.before.channels), np.array(one.after.channels)
        assert (
            len(before) == quantizer.structure.attentions[one.name].heads * quantizer.structure.attentions[one.name].dim
        )
        np.testing.assert_allclose(np.ptp(after, axis=1), np.ptp(before, axis=1), rtol=1e-3)
        assert np.abs(after).max() < np.abs(before).max()
        assert sum(one.after.values.counts) == sum(one.before.values.counts)


def test_gelus_by_their_readers(quantizer: Quantizer, figures: Figures) -> None:
    sites = quantizer.prepared.structure.sites
    assert set(figures.gelus) == {site.consumer for site in sites if site.role is Role.GELU}
    assert all(-0.18 < one.edges[0] < 0 for one in figures.gelus.values())


def test_page(figures: Figures) -> None:
    class Reader(HTMLParser):
        drawings = headings = 0

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.drawings += tag == "svg"
            self.headings += tag == "h2"
            assert not {"src", "href"} & {name for name, _ in attrs}, "nothing is fetched"

    reader, text = Reader(), page(figures, model="<m>.onnx", recipe="auto", samples="2 samples")
    reader.feed(text)
    assert reader.headings == 3
    assert reader.drawings == 7 * 3 + 7 + len(figures.gelus)
    assert "<m>" not in text
    assert f"{figures.attentions[0].above:.2%} above 0.01" in text
