"""softmax: the errors compared are those of the named codes, fused or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxptq import Quantizer, session
from onnxptq.calibrators import calibrators
from onnxptq.calibrators.softmax_codes import Candidate, CodeErrors, candidates
from onnxptq.errors import InputError
from onnxptq.ops.log_base import LogBaseParams
from onnxptq.ops.qattention import SPEC
from onnxptq.ops.uniform import affine
from onnxptq.plan import Choice
from onnxptq.structure import Role, Site
from tests.passes.graphs import cross

RNG = np.random.default_rng(0)


def maps(count: int = 2, sharp: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    scores = RNG.standard_normal((count, 3, 10, 16)) * sharp
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32), RNG.standard_normal((count, 3, 16, 4)).astype(
        np.float32
    )


def test_errors_are_those_of_the_codes() -> None:
    p, v = maps()
    tried = list(candidates(4, np.linspace(0, 1, 16)))
    statistic = CodeErrors(tried, 10**6)
    statistic.update(p, v)
    wanted = [np.square((one.fake(p) - p) @ v).sum() for one in tried]
    assert np.allclose(statistic.errors, wanted, rtol=1e-4)
    halves = [CodeErrors(tried, 10**6) for _ in range(2)]
    for half, part in zip(halves, range(2), strict=True):
        half.update(p[part : part + 1], v[part : part + 1])
    assert np.allclose(halves[0].merge(halves[1]).errors, wanted, rtol=1e-4)
    again = CodeErrors(tried, 10**6)
    again.load(statistic.arrays())
    assert np.array_equal(again.errors, statistic.errors)


@pytest.mark.parametrize("norm", [False, True])
def test_a_candidate_is_what_the_fused_attention_computes(norm: bool) -> None:
    q, k = (RNG.standard_normal((2, 8, 4)).astype(np.float32) for _ in range(2))
    v = RNG.standard_normal((2, 8, 3)).astype(np.float32)
    scores = 0.5 * q.astype(np.float64) @ k.transpose(0, 2, 1)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p = (p / p.sum(-1, keepdims=True)).astype(np.float32)
    params = LogBaseParams(4, 0.9, 2.0)
    got = SPEC.reference(
        q, k, v, *[None] * 10, *params.inputs().values(), q_bits=0, k_bits=0, v_bits=0, p_bits=4,
        softmax_scheme="log_base", softmax_norm=int(norm), scale=0.5,
    )  # fmt: skip
    assert np.allclose(got, Candidate("log_base", params, norm).fake(p) @ v, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("fusable", [True, False])
def test_the_least_error_wins_and_is_lowered(bits: int, fusable: bool, tmp_path: Path) -> None:
    model, _, feeds = cross(4, heads=2, dim=8)
    if not fusable:  # something else reads the scores
        node = next(n for n in model.graph.nodes if n.op == "Softmax")
        model.graph.outputs.append(node.inputs[0])
    q = Quantizer(model.to_proto(), bits=f"w32a{bits}", include=[".*"], settings={"selection": "off"}, threads=1)
    plan = q.calibrate([{k: v + i for k, v in f.items()} for i in range(3) for f in feeds])
    key = next(key for key in plan if plan.sites[key].role is Role.SOFTMAX)
    assert plan[key].options["norm"] in (0, 1)
    result = q.quantize()
    assert any(n.op_type == "QAttention" for n in result.model.graph.node) == fusable
    native, bodies = (session(result.model, executor=e, threads=1).run(["y"], feeds[0])[0] for e in (None, "function"))
    assert np.abs(native - bodies).max() <= 0.1 * np.abs(native).max()
    assert result.report.outputs["y"].sqnr > {2: 0, 3: 5, 4: 10, 8: 30}[bits]


def test_masked_rows_and_other_sites() -> None:
    p, _ = maps()
    p[0, 0, 0] = 0
    assert np.isfinite(Candidate("log_base", LogBaseParams(4, 1.0, 1.0), True).fake(p)).all()
    search = calibrators()["softmax"].search(Site("x", "n", Role.LINEAR_INPUT), Choice("row", "softmax", 4))
    with pytest.raises(InputError, match="softmax outputs"):
        next(search)


@pytest.mark.parametrize(("bits", "norm"), [(4, True), (8, False)])
def test_uniform_codes_alone(bits: int, norm: bool) -> None:
    """Below 8 bits relative to the row's largest; at 8 bits of the weights themselves. The largest value is that of
    least error."""
    p, v = maps(sharp=1.0)
    search = calibrators()["softmax"].search(
        Site("p", "n", Role.SOFTMAX, partner="v"), Choice("uniform", "softmax", bits)
    )
    statistic = next(search).statistic
    assert isinstance(statistic, CodeErrors)
    assert all(one.scheme == "uniform" for one in statistic.tried)
    statistic.update(p, v)
    with pytest.raises(StopIteration) as stop:
        search.send(statistic)
    found = stop.value.value
    assert (found.scheme, found.granularity, bool(found.options["norm"])) == ("uniform", "tensor", norm)
    error = np.square((Candidate("uniform", found.params, norm).fake(p) - p) @ v).sum()
    assert error <= statistic.errors.min() * 1.001
    assert error <= np.square((Candidate("uniform", affine(0.0, 1.0, bits), False).fake(p) - p) @ v).sum()
