"""The cost of quantized files: the sums of an independent walk over the float model, codes, multipliers, true bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxptq.cli import main
from onnxptq.datasets import zoo
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.lower import Format, native, portable, qdq
from onnxptq.ops.log_base import LogBaseParams
from onnxptq.ops.table import table
from onnxptq.quantizer import Quantizer
from onnxptq.report.accounting import account, account_tables
from onnxptq.report.multiplied import File, side
from onnxptq.running.sessions import session
from onnxptq.structure import discover

LOWER: dict[Format, Any] = {"native": native.lower, "portable": portable.lower, "qdq": qdq.lower}
Made = dict[str, onnx.ModelProto]


@pytest.fixture(scope="module")
def sample() -> dict[str, np.ndarray]:
    """Decoder inputs of one scene."""
    return zoo.decoder_calibration(session(zoo.path("sam-mini-encoder"), threads=1), 1)[0]


@pytest.fixture(scope="module")
def made(sample: dict[str, np.ndarray]) -> Made:
    """The decoder in each format."""
    q = Quantizer(zoo.path("sam-mini-decoder"), recipe="minmax", bits="w4a8", threads=1)
    plan = q.calibrate([sample])
    return {name: lower(q.model, q.structure, plan).proto for name, lower in LOWER.items()}


def walked(sample: dict[str, np.ndarray]) -> int:
    """Multiplications of the float decoder, node by node from the shapes of one run."""
    proto = canonicalise(load(zoo.path("sam-mini-decoder"))).to_proto()
    nodes = [n for n in proto.graph.node if n.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose")]
    held = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
    names = {name for node in nodes for name in (*node.input[:2], node.output[0])} - set(held)
    outputs = {one.name for one in proto.graph.output} | set(sample)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names - outputs))
    run = session(proto, threads=1)
    held |= sample | dict(zip([o.name for o in run.get_outputs()], run.run(None, sample), strict=True))
    total = 0
    for node in nodes:
        a, b, y = (held[name] for name in (*node.input[:2], node.output[0]))
        if node.op_type == "ConvTranspose":
            total += a.size * b[0].size
        elif node.op_type == "Conv":
            total += y.size * b[0].size
        else:
            total += y.size * a.shape[-1]
    return total


@pytest.mark.parametrize("form", list(LOWER))
def test_sums_are_those_of_an_independent_walk(form: str, made: Made, sample: dict[str, np.ndarray]) -> None:
    found = account(made[form], File(made[form], sample).products())
    assert found.total == walked(sample) == sum(line.count for line in found.lines)
    left = sum(line.count for line in found.lines if line.codes == 32)
    assert 0 < left < 0.3 * found.total
    assert found.acceleration == pytest.approx(found.total / (left + (found.total - left) / 4))
    assert found.size == made[form].ByteSize()


def test_codes_of_a_native_file(made: Made, sample: dict[str, np.ndarray]) -> None:
    found = account(made["native"], File(made["native"], sample).products())
    pairs = {(line.left.codes, line.right.codes) for line in found.lines}
    assert pairs == {(8, 4), (8, 8), (32, 32)}
    structure = discover(canonicalise(load(zoo.path("sam-mini-decoder"))))
    coded = [one for one in structure.sites if one.role == "weight" and one.default]
    sizes = {line.name: line.inputs * line.outputs for line in structure.linears.values()}
    assert found.weights == {4: sum(sizes[site.consumer] for site in coded)}
    assert "the papers' accounting" in account_tables(found)


def test_operands() -> None:
    values = table(np.linspace(-1, 2, 16), 4).inputs()
    assert (side("table", 4, tuple(values.values()), 99).multiplier, side("uniform", 4, (), 99).multiplier) == (8, 4)
    assert side("token", 4, (), 8).true == 4 + 40 / 8
    assert side("row", 6, (), 64).true == 6.5
    assert side("outlier_retained", 4, (np.ones(3), np.ones(3)), 9).true == 6
    assert side("token", 0, (), 8).codes == 32
    for tau, bits in ((1.0, 8), (2.0, 8), (4.0, 8), (0.75, 32), (1.5, 32)):
        powers = tuple(LogBaseParams(4, 1.0, tau).inputs().values())
        assert side("log_base", 4, powers, 9).multiplier == bits, tau


def test_the_command(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "decoder.onnx"
    onnx.save_model(made["native"], path)
    assert main(["inspect", str(path), "--cost", "--calib", "zoo:sam-mini-decoder"]) == 0
    said = capsys.readouterr().out
    assert "uniform codes x weights" in said
    assert "times less arithmetic" in said
