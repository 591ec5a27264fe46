"""The NumPy references as operators of a session."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from onnxptq.errors import InputError
from onnxptq.ops import pyops, schemes, specs
from tests.ops.conftest import Runner


@pytest.fixture
def python_run() -> Runner:
    pytest.importorskip("onnxruntime_extensions")
    return Runner("python")


def test_references_run_and_agree(python_run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(3, 1, 7)).astype(np.float32)
    x[0, 0, :3] = [np.nan, np.inf, -np.inf]
    named = {spec.name for spec in pyops.expressible()}
    assert {"UniformQuantizeLinear", "RowRange", "LogBaseDequantizeLinear"} <= named
    for scheme in schemes().values():
        if f"{scheme.ops}QuantizeLinear" not in named:
            continue
        p = list(scheme.grid(-1.0, 1.0, 6))[-1]
        inputs, options = tuple(p.inputs().values()), {"bits": 6, **p.attributes()}
        codes = python_run(f"{scheme.ops}QuantizeLinear", x, *inputs, **options)
        np.testing.assert_array_equal(codes, scheme.encode(x, p))
        np.testing.assert_array_equal(
            python_run(f"{scheme.ops}DequantizeLinear", codes, *inputs, **options), scheme.fake(x, p)
        )
    for got, want in zip(python_run("RowRange", x, bits=5), specs()["RowRange"].reference(x, bits=5), strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_reference_itself_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body would give the right answer too, so count the calls."""
    extensions = pytest.importorskip("onnxruntime_extensions")
    defined: list[tuple[str, Any]] = []
    monkeypatch.setattr(extensions, "onnx_op", lambda *, op_type, **kinds: lambda f: defined.append((op_type, f)))
    pyops._define.__wrapped__()
    assert ("onnxptq::RowRange", specs()["RowRange"].reference) in defined
    assert len(defined) == len(pyops.expressible())


def test_absence_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime_extensions":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"pip install 'onnxptq\[extensions\]'"):
        pyops._define.__wrapped__()
