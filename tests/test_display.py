"""What notebooks and the interpreter show: one line, or the key numbers; text is escaped."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from onnxptq import Quantizer, Result
from onnxptq.display import table, tiles
from tests.cli.conftest import vision_model
from tests.test_arguments import images


@pytest.fixture(scope="module")
def result() -> Result:
    q = Quantizer(vision_model(), recipe="minmax", bits="w6a6", threads=1)
    assert repr(q) == "<Quantizer: model, w6a6 by recipe minmax, not calibrated yet>"
    assert "6 linears, 2 convolutions, 1 attentions" in q._repr_html_()
    q.calibrate(images())
    assert "calibrated>" in repr(q)
    return q.quantize()


def test_one_line_each(result: Result) -> None:
    for one in (result, result.plan, result.report):
        assert len(repr(one)) < 200
        assert "\n" not in repr(one)
        assert "w6a6 by recipe minmax" in repr(one)
    assert "FP32 (masks agree to" in repr(result)


def test_html(result: Result) -> None:
    for one in (result, result.plan):
        HTMLParser().feed(one._repr_html_())
    assert "mask agreement" in result._repr_html_()
    assert result.plan._repr_html_().count("<tr>") > 5


def test_text_is_escaped() -> None:
    assert "<b>" not in table(["<b>"], [["<b>"]])
    assert "<i>" not in tiles([("<i>", "<i>")], "<i>")


def test_summary_and_page(result: Result, tmp_path: Path) -> None:
    assert "worst sites" in result.summary()
    assert result.save_report(tmp_path / "r.html").read_text().count("<svg") > 10
