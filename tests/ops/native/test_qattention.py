"""QAttention of the library against its NumPy reference, on every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxptq.ops import schemes, specs

Array = NDArray[Any]
SHAPES = [
    ((1, 1, 1), 1, 1, 1),
    ((2, 3), 5, 7, 8),
    ((4,), 13, 33, 16),
    ((2, 2), 30, 64, 32),
    ((1,), 12, 200, 64),
    ((3,), 25, 49, 80),
]
"""Leading dimensions, queries, keys, head width; values are 3 wider."""


def inputs(rng: np.random.Generator, lead: tuple[int, ...], n: int, m: int, d: int) -> tuple[Array, Array, Array]:
    return tuple(
        rng.normal(size=(*lead, rows, width)).astype(np.float32) for rows, width in ((n, d), (m, d), (m, d + 3))
    )  # type: ignore[return-value]


def agrees(y: Array, expected: Array, *, rows_that_flip: float = 0.01) -> None:
    """One code in a million may flip, because two exponentials differ in the last bit; that changes one row."""
    assert y.shape == expected.shape
    assert np.isfinite(y).all()
    if not y.size:
        return
    top = max(float(np.abs(expected).max()), 1e-30)
    off = (np.abs(y - expected) > 1e-5 * top).any(-1)
    assert off.sum() <= max(1, rows_that_flip * off.size), f"{off.sum()} rows of {off.size} differ"
    noise = float(((y - expected).astype(np.float64) ** 2).sum())
    assert noise <= 1e-6 * max(float((expected.astype(np.float64) ** 2).sum()), 1e-30)


def check(run: Any, *given: Array | None, **attributes: Any) -> None:
    expected = specs()["QAttention"].reference(*given, **attributes)
    agrees(run("QAttention", *given, **attributes), expected)


def params(scheme: str, bits: int, which: int) -> tuple[Array, ...]:
    if scheme == "row":
        return ()
    candidates = list(schemes()[scheme].grid(0.0, 1.0, bits))
    return tuple(candidates[which % len(candidates)].inputs().values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 4, 6, 7, 8])
def test_widths_and_shapes(run: Any, isa: str, rng: np.random.Generator, bits: int, shape: Any) -> None:
    q, k, v = inputs(rng, *shape)
    scale, zero = np.float32(8 / (2**bits - 1)), np.uint8(2 ** (bits - 1) - 1)
    common: dict[str, Any] = {
        "q_bits": bits,
        "k_bits": bits,
        "v_bits": bits,
        "p_bits": bits,
        "scale": 0.3,
        "softmax_scheme": "row",
    }
    check(run, q, k, v, None, None, None, None, scale, zero, scale, zero, scale, zero, **common)
    check(run, q, k, v, None, None, None, None, None, None, None, None, scale, zero, qk_scheme="token", **common)
    v[0, ..., 0], v[..., -1] = 0, 1e30  # channels without a range, and with a large one
    check(run, q, k, v, qk_scheme="token", v_scheme="token", **common)


def test_values_that_are_no_numbers(run: Any, isa: str, rng: np.random.Generator) -> None:
    """A channel's range holds 0 and the largest float; weights of exactly 1 and 0 keep infinities out of sums."""
    q, k, v = (
        np.zeros((1, 2, 4), np.float32),
        np.zeros((1, 21, 4), np.float32),
        rng.normal(size=(1, 21, 5)).astype(np.float32),
    )
    v[0, 1, 0], v[0, 2, 1], v[0, 3, 2] = np.nan, np.inf, -np.inf
    mask = np.full((2, 21), -np.inf, np.float32)
    mask[0, 4] = mask[1, 5] = 0
    widths = {f"{name}_bits": 8 for name in "qkvp"}
    check(run, q, k, v, mask, qk_scheme="token", v_scheme="token", softmax_scheme="row", **widths)


@pytest.mark.parametrize("norm", [0, 1])
@pytest.mark.parametrize("scheme", ["uniform", "row", "dual_region", "log_base", "table"])
def test_softmax_schemes(run: Any, isa: str, rng: np.random.Generator, scheme: str, norm: int) -> None:
    for i, shape in enumerate(SHAPES):
        q, k, v = inputs(rng, *shape)
        for bits, which in ((4, 7 * i), (4, 100 + 31 * i), (6, 250 - 29 * i), (3, 5), (8, 150)):
            if scheme == "table" and bits > 6:
                continue
            given = (
                q,
                k,
                v,
                None,
                None,
                None,
                None,
                None,
                None,
                None,
                None,
                np.float32(0.05),
                np.uint8(100),
                *params(scheme, bits, which),
            )
            for v_bits, v_scheme in ((8, "uniform"), (4, "token"), (0, "uniform")):
                scaled = {
                    "q_bits": 8,
                    "k_bits": 8,
                    "v_bits": v_bits,
                    "p_bits": bits,
                    "scale": 0.5,
                    "softmax_norm": norm,
                }
                check(run, *given, qk_scheme="token", v_scheme=v_scheme, softmax_scheme=scheme, **scaled)


def test_additions_and_masks(run: Any, isa: str, rng: np.random.Generator) -> None:
    q, k, v = inputs(rng, (2, 3), 10, 24, 16)
    common: dict[str, Any] = {"q_bits": 8, "k_bits": 8, "v_bits": 8, "p_bits": 8, "qk_scheme": "token", "heads": 3}
    scales = (
        None,
        None,
        None,
        None,
        rng.uniform(0.03, 0.04, (3, 19)).astype(np.float32),
        rng.integers(0, 255, (3, 19)).astype(np.uint8),
    )
    mask = np.where(rng.random((2, 1, 1, 24)) < 0.3, -1e4, 0).astype(np.float32)
    bias = rng.normal(size=(1, 3, 10, 24)).astype(np.float32)
    column = rng.normal(size=(10, 1)).astype(np.float32)
    rel = rng.normal(size=(2, 3, 10, 4)).astype(np.float32), rng.normal(size=(2, 3, 10, 6)).astype(np.float32)
    for extra in (
        (mask, None, None, None),
        (None, bias, None, None),
        (mask, bias, *rel),
        (column, None, *rel),
        (None, column, None, None),
    ):
        check(run, q, k, v, *extra, *scales, softmax_scheme="row", scale=0.25, **common)
    gone = mask.copy()
    gone[0], gone[1, ..., 3:] = -np.inf, -np.inf  # one image masked everywhere, one nearly so
    for scheme in ("row", "uniform", "log_base", "dual_region"):
        for norm in (0, 1):
            y = run(
                "QAttention",
                q,
                k,
                v,
                gone,
                None,
                None,
                None,
                *scales,
                *params(scheme, 8, 150),
                softmax_scheme=scheme,
                softmax_norm=norm,
                **common,
            )
            assert not y[0].any()
            check(
                run,
                q,
                k,
                v,
                gone,
                None,
                None,
                None,
                *scales,
                *params(scheme, 8, 150),
                softmax_scheme=scheme,
                softmax_norm=norm,
                **common,
            )


@pytest.mark.parametrize("floats", ["q", "k", "v", "p", "qk", "vp", "qkvp"])
def test_float_operands(run: Any, isa: str, rng: np.random.Generator, floats: str) -> None:
    q, k, v = inputs(rng, (2,), 14, 150, 20)
    widths = {f"{name}_bits": 0 if name in floats else 6 for name in "qkvp"}
    static = [np.float32(0.1), np.uint8(31)] * 3
    check(run, q, k, v, None, None, None, None, *static, scale=0.2, softmax_scheme="row", **widths)


def test_equal_scores_round_as_written(run: Any, isa: str) -> None:
    """Two equal keys have the weight 1/2, a tie at 8 bits: rounding must follow the divisions of the definition."""
    q, k = np.ones((1, 3, 4), np.float32), np.ones((1, 2, 4), np.float32)
    v = np.array([[[1.0, 2.0], [-3.0, 5.0]]], np.float32)
    static = [np.float32(1 / 16), np.uint8(128)] * 3
    common: dict[str, Any] = {"q_bits": 8, "k_bits": 8, "v_bits": 8, "softmax_scheme": "uniform"}
    for bits in range(2, 9):
        p0 = np.float32(1 / (2**bits - 1))
        y = run("QAttention", q, k, v, None, None, None, None, *static, p0, p_bits=bits, **common)
        expected = specs()["QAttention"].reference(q, k, v, None, None, None, None, *static, p0, p_bits=bits, **common)
        np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_more_keys_than_32_bits_can_sum(run: Any, rng: np.random.Generator) -> None:
    q, k = rng.normal(size=(1, 2, 4)).astype(np.float32), rng.normal(size=(1, 70001, 4)).astype(np.float32)
    v = np.full((1, 70001, 2), 1e9, np.float32)
    static = [np.float32(1 / 16), np.uint8(0)] * 3
    common: dict[str, Any] = {
        "q_bits": 8,
        "k_bits": 8,
        "v_bits": 8,
        "p_bits": 8,
        "softmax_scheme": "row",
        "softmax_norm": 1,
    }
    check(run, q * 0, k, v, None, None, None, None, *static, **common)


def test_empty(run: Any, rng: np.random.Generator) -> None:
    common: dict[str, Any] = {"q_bits": 8, "k_bits": 8, "v_bits": 0, "p_bits": 0, "qk_scheme": "token"}
    for lead, n, m in (((0,), 3, 4), ((2,), 0, 4), ((2,), 3, 0)):
        q, k, v = inputs(rng, lead, n, m, 8)
        y = run("QAttention", q, k, v, **common)
        assert y.shape == (*lead, n, 11)
        assert not y.any()


@pytest.mark.parametrize("scheme", ["row", "log_base"])
def test_threads_do_not_change_bytes(run: Any, rng: np.random.Generator, scheme: str) -> None:
    q, k, v = inputs(rng, (3,), 70, 90, 16)
    given = (
        q,
        k,
        v,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        np.float32(0.05),
        np.uint8(100),
        *params(scheme, 4, 150),
    )
    options = {"q_bits": 4, "k_bits": 4, "v_bits": 4, "p_bits": 4, "qk_scheme": "token", "softmax_scheme": scheme}
    one, two = (run("QAttention", *given, threads=t, **options) for t in (1, 2))
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q_bits": 9}, "q_bits = 9; it must be 2 to 8"),
        ({"softmax_scheme": "token"}, "softmax_scheme = token; it must be"),
        ({"qk_scheme": "row"}, "qk_scheme = row; it must be uniform or token"),
        ({"v_scheme": "table"}, "v_scheme = table; it must be uniform or token"),
        ({"heads": 0}, "heads must be positive"),
        ({"heads": 4}, "has no 4 heads"),
        ({"softmax_scheme": "table"}, "scheme table of 8 bits needs"),
        ({"qk_scheme": "uniform"}, r"q_scale \[\] and q_zero \[\] must hold one number"),
    ],
)
def test_bad_nodes_are_sentences(run: Any, rng: np.random.Generator, changes: dict[str, Any], words: str) -> None:
    q, k, v = inputs(rng, (3,), 4, 5, 8)
    options = {
        "q_bits": 8,
        "k_bits": 8,
        "v_bits": 8,
        "p_bits": 8,
        "qk_scheme": "token",
        "softmax_scheme": "row",
    } | changes
    v_scale = (None,) * 8 + (np.float32(1), np.uint8(0))
    with pytest.raises(Exception, match=f"onnxptq.QAttention 'node'.*{words}"):
        run("QAttention", q, k, v, *v_scale, **options)


def test_bad_shapes_are_sentences(run: Any, rng: np.random.Generator) -> None:
    q, k, v = inputs(rng, (3,), 4, 6, 8)
    common: dict[str, Any] = {"q_bits": 8, "k_bits": 8, "v_bits": 0, "p_bits": 0, "qk_scheme": "token"}
    for bad, words in (
        ((q[..., :7], k, v), "must be"),
        ((q, k[:, :5], v), "must be"),
        ((q[:2], k, v), "must be"),
        ((q, k, v, np.ones((5,), np.float32)), r"mask \[5\] does not broadcast"),
        ((q, k, v, None, None, np.ones((3, 4, 2), np.float32)), "rel_h and rel_w must be given together"),
        ((q, k, v, None, None, np.ones((3, 4, 2), np.float32), np.ones((3, 4, 4), np.float32)), "with H W = 6"),
    ):
        with pytest.raises(Exception, match=f"onnxptq.QAttention 'node'.*{words}"):
            run("QAttention", *bad, **common)
