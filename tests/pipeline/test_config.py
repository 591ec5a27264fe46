"""One request, one model: the command line and the Python API write the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxptq import Quantizer
from onnxptq.cli import main
from onnxptq.errors import InputError
from onnxptq.lower import FORMATS
from onnxptq.pipeline.config import RunConfig
from onnxptq.recipe import Recipe

QUICK = {("auto", "qdq"), ("auto", "portable"), ("ptq4sam-s", "native"), ("minmax", "qdq")}
LEARNED = ("adaround", "brecq", "qdrop", "ptq4sam-l")
REQUESTS = [
    pytest.param(recipe, format, marks=() if (recipe, format) in QUICK else pytest.mark.slow)
    for recipe in Recipe.names()
    for format in FORMATS
]


@pytest.mark.parametrize("name", ["cnn", pytest.param("bert", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("recipe", "format"), REQUESTS)
def test_one_request_one_file(name: str, recipe: str, format: str, minis: Callable[..., Any], tmp_path: Path) -> None:
    from onnxptq.models import mini

    samples = mini.samples(name, 8)
    (tmp_path / "samples").mkdir()
    for index, sample in enumerate(samples):
        np.savez(tmp_path / "samples" / f"{index}.npz", **sample)  # type: ignore[arg-type]
    model, written = minis(name).path, tmp_path / "cli.onnx"
    options = ["--recipe", recipe, "--bits", "w6a6", "--format", format, "--samples", "5", "--threads", "1"]
    options += ["--draw", "first"]  # samples that Python gives keep their order
    settings = {"weights.iterations": "4"} if recipe in LEARNED else {}
    options += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    assert main(["quantize", str(model), "-o", str(written), "--calib", str(tmp_path / "samples"), *options]) == 0
    q = Quantizer(model, recipe=recipe, bits="w6a6", format=format, settings=settings, threads=1)
    q.calibrate(samples, limit=5)
    q.quantize().save(tmp_path / "api.onnx")
    assert written.read_bytes() == (tmp_path / "api.onnx").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"format": "tensorrt"}, "unknown format 'tensorrt'.*native, portable, qdq"),
        ({"constants": "fp8"}, "unknown constants 'fp8'.*use one of fp16, fp32"),
        ({"bits": "8"}, "write wXaY"),
        ({"recipe": "ominous"}, "unknown recipe 'ominous'"),
    ],
)
def test_words_of_a_request_are_checked(words: dict[str, str], message: str) -> None:
    given = {"recipe": "auto", "bits": "w8a8", **words}
    with pytest.raises(InputError, match=message):
        RunConfig.of(given.pop("recipe"), given.pop("bits"), **given)  # type: ignore[arg-type]


def test_a_format_asks_for_codes_that_it_can_express() -> None:
    standard = Recipe.load("auto", {"codes": "standard"})
    assert RunConfig.of("auto", "w8a8", format="qdq").recipe == standard
    assert RunConfig.of("auto", "w8a8").recipe == Recipe.load("auto")
    assert RunConfig.of("auto", "w8a8").by(Recipe.load("omse")).recipe.name == "omse"
