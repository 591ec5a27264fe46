"""The Python API: wrong arguments are told with the right way to write them; the documented example runs."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxptq import InputError, Plan, Quantizer, Recipe
from onnxptq.arguments import size, texts
from tests.cli.conftest import vision_model

ROOT = Path(__file__).parents[1]


def images(count: int = 6) -> list[dict[str, Any]]:
    return [{"image": np.random.default_rng(i).normal(size=(1, 3, 16, 16)).astype(np.float32)} for i in range(count)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bits": 8}, "bits=8: write bits='w8a8'"),
        ({"bits": "8"}, "write wXaY"),
        ({"format": "tensorrt"}, "format='tensorrt': is a target; write target='tensorrt'"),
        ({"target": "qdq"}, "target='qdq': is a format; write format='qdq'"),
        ({"format": "qqd"}, "unknown format 'qqd'; did you mean 'qdq'"),
        ({"exclude": "neck"}, "exclude='neck': give a list: exclude=['neck']"),
        ({"include": [3]}, "give a list of regular expressions"),
        ({"exclude": ["("]}, "exclude=['(']: is not a regular expression"),
        ({"max_size": "40MB"}, "max_size='40MB': give bytes: max_size=40_000_000"),
        ({"max_size": 1.5}, "give a whole number of bytes"),
        ({"recipe": 3}, "recipe=3: give a name such as 'auto'"),
        ({"recipe": "atuo"}, "did you mean 'auto'"),
        ({"plan": "plan.json"}, "write plan=Plan.load('plan.json')"),
        ({"plan": {}}, "give a Plan, not a dict"),
        ({"strict": "yes"}, "strict='yes': give True or False"),
        ({"threads": "4"}, "threads='4': give a whole number"),
        ({"seed": True}, "seed=True: give a whole number"),
        ({"settings": "weights.bits=4"}, "give a mapping such as"),
        ({"settings": {"weights.bits": None}}, "give a text, a number, True, False or a list"),
        ({"settings": {"weights.symetric": True}}, "did you mean 'symmetric'"),
    ],
)
def test_wrong_arguments(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        Quantizer(vision_model(), **given)


def test_wrong_model_and_wrong_arguments_of_calibrate() -> None:
    with pytest.raises(InputError, match=r"model: give a path, bytes or an onnx\.ModelProto, not a dict"):
        Quantizer({})  # type: ignore[arg-type]
    q = Quantizer(vision_model(), recipe="rtn")
    for given, said in (
        ({"memory_limit": "1GB"}, "memory_limit='1GB': give bytes: memory_limit=1_000_000_000"),
        ({"limit": "4"}, "limit='4': give a number of samples"),
        ({"transform": 3}, "transform=3: give a function"),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            q.calibrate(images(), **given)  # type: ignore[arg-type]


def test_settings_take_plain_values() -> None:
    assert texts({"a": True, "b": 3, "c": "x", "passes": ["p", "q"]}) == {
        "a": "true", "b": "3", "c": "x", "passes": "p,q"
    }  # fmt: skip
    found = texts({"activations.candidates": ["minmax", "omse"]})
    assert Recipe.load("auto", found).rules[-1].changes["options"]["candidates"] == ["minmax", "omse"]


def test_sizes() -> None:
    found = [size(text) for text in ("4GB", "512MiB", "1000", "1.5 kb", "3 iB", "much")]
    assert found == [4_000_000_000, 2**29, 1000, 1500, None, None]


def test_every_argument_is_documented_and_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method, owner in ((Quantizer.__init__, Quantizer), (Quantizer.calibrate, Quantizer.calibrate)):
        text = inspect.getdoc(owner) or ""
        for name in list(inspect.signature(method).parameters)[1:]:
            assert re.search(rf"^ +{name}: ", text, re.MULTILINE), name
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"Quantizer": Quantizer, "model": vision_model(), "samples": images()}
    for line in re.findall(r">>> (.*)", Quantizer.__doc__ or ""):
        exec(line, names)
    assert names["path"].stat().st_size > 0
    names["plan"].save("plan.json")
    assert Plan.load("plan.json").to_json() == names["plan"].to_json()


USER = """
import numpy as np
from onnxptq import InputError, Plan, Quantizer, Report, Result, Structure, session

def small(path: str) -> Result:
    q = Quantizer(path, bits="w6a6", exclude=["neck"], settings={"selection": "off"})
    structure: Structure = q.structure
    plan: Plan = q.calibrate([np.zeros((1, 3, 8, 8), np.float32)], transform=lambda item: item)
    plan.save("plan.json")
    try:
        result = q.quantize()
    except InputError as error:
        raise SystemExit(str(error)) from error
    report: Report = result.report
    print(result.summary(), report.bits, structure)
    session(str(result.save("small.onnx"))).run(None, {})
    return result
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
@pytest.mark.parametrize(("code", "codes"), [(USER, set()), (USER.replace('"w6a6"', "6"), {"arg-type"})])
def test_the_types_serve_a_user(code: str, codes: set[str], tmp_path: Path) -> None:
    """A user's strict mypy takes right code, and finds wrong arguments."""
    (tmp_path / "user.py").write_text(textwrap.dedent(code))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "user.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert set(re.findall(r"user\.py:\d+: error: .*\[([a-z-]+)\]", done.stdout)) == codes, done.stdout
