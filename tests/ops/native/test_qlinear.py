"""QLinear of the library against its NumPy reference, on every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxptq.ops import schemes, specs
from onnxptq.ops.pack import store_weight

Array = NDArray[Any]


def weights(
    rng: np.random.Generator, k: int, n: int, bits: int, group: int, *, extreme: bool = False
) -> tuple[Any, ...]:
    """Signed codes as an array, the same as stored, scale and zero."""
    half = 2 ** (bits - 1)
    codes = rng.integers(-half, half, (k, n)).astype(np.int8)
    shape = (-(-k // group), n) if group else (n,)
    zero = rng.integers(-half, half, shape).astype(np.int8)
    if extreme:
        codes[:], zero[:] = -half, half - 1
        codes[:, ::2] = half - 1
        zero[..., ::2] = -half
    stored = store_weight((codes.astype(np.int16) + half).astype(np.uint8), bits)
    return codes, stored, rng.uniform(0.01, 0.02, shape).astype(np.float32), zero


def check(
    run: Any,
    x: Array,
    w: tuple[Any, ...],
    bias: Array | None,
    params: tuple[Array, ...],
    constant: bool = True,
    **attributes: Any,
) -> None:
    codes, stored, scale, zero = w
    given = (stored, scale, zero, bias, *params)
    constants = tuple(i for i in range(1, 5 + len(params)) if i != 4) if constant else ()
    y = run("QLinear", x, *given, constants=constants, K=codes.shape[0], N=codes.shape[1], **attributes)
    expected = specs()["QLinear"].reference(x, *given, K=codes.shape[0], N=codes.shape[1], **attributes)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * max(float(np.abs(expected).max(initial=0)), 1e-30))


@pytest.mark.parametrize("w_bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("x_bits", [2, 4, 6, 7, 8])
def test_extremes_never_saturate(run: Any, isa: str, rng: np.random.Generator, x_bits: int, w_bits: int) -> None:
    """The largest codes everywhere, long enough to overflow every partial sum that is widened too late."""
    k, n, m = 777, 21, 9
    x = np.where(rng.random((m, k)) < 0.05, -1e9, 1e9).astype(np.float32)
    w = weights(rng, k, n, w_bits, 0, extreme=True)
    for zero in (0, 2**x_bits - 1):
        check(run, x, w, None, (np.float32(0.1), np.uint8(zero)), x_bits=x_bits, w_bits=w_bits)


@pytest.mark.parametrize("scheme", ["uniform", "token", "dual_region", "log_base", "table", "outlier_retained"])
def test_schemes_and_shapes(run: Any, isa: str, rng: np.random.Generator, scheme: str) -> None:
    for i, (m, k, n) in enumerate([(1, 1, 1), (13, 70, 33), (25, 64, 64), (2, 5, 130), (50, 300, 17)]):
        bits, w_bits, group = (2, 4, 6, 8, 3)[i], (4, 8, 3, 6, 2)[i], (0, 16, 0, 3, 0)[i]
        x = rng.normal(size=(m, k)).astype(np.float32)
        if scheme == "log_base":
            x = np.abs(x)
        if i == 1:
            x.ravel()[:4] = (np.nan, 0, -0.0, 1e-40) if scheme == "token" else (np.nan, np.inf, -np.inf, 0)
        made = schemes()[scheme]
        options: dict[str, Any] = {}
        params: tuple[Array, ...] = ()
        if not made.dynamic:
            candidates = list(made.grid(-3.0 if i % 2 else 0.0, 3.0, bits))
            for p in (candidates[len(candidates) // 3], candidates[-1]):
                params = tuple(p.inputs().values())
                options = {f"x_{key}": value for key, value in p.attributes().items()}
                bias = rng.normal(size=n).astype(np.float32) if i % 2 else None
                for constant in (True, False):
                    w = weights(rng, k, n, w_bits, group)
                    check(
                        run,
                        x,
                        w,
                        bias,
                        params,
                        constant,
                        x_scheme=scheme,
                        x_bits=bits,
                        w_bits=w_bits,
                        w_group=group,
                        **options,
                    )
        else:
            w = weights(rng, k, n, w_bits, group)
            check(run, x, w, None, (), x_scheme=scheme, x_bits=bits, w_bits=w_bits, w_group=group)


@pytest.mark.parametrize("w_bits", [3, 4, 8])
@pytest.mark.parametrize("group", [0, 13])
def test_float_rows(run: Any, isa: str, rng: np.random.Generator, w_bits: int, group: int) -> None:
    for m, k, n in ((1, 7, 3), (30, 400, 40), (200, 65, 32)):
        x = rng.normal(size=(m, k)).astype(np.float32)
        check(run, x, weights(rng, k, n, w_bits, group), None, (), x_bits=0, w_bits=w_bits, w_group=group)


@pytest.mark.parametrize("epilogue", ["none", "gelu", "relu"])
def test_epilogues(run: Any, isa: str, rng: np.random.Generator, epilogue: str) -> None:
    x = rng.normal(size=(3, 7, 40)).astype(np.float32)
    bias = np.linspace(-6, 6, 45).astype(np.float32)
    params = (np.float32(0.03), np.uint8(128))
    for bits in (0, 8):
        check(
            run, x, weights(rng, 40, 45, 8, 0), bias, params if bits else (), x_bits=bits, w_bits=8, epilogue=epilogue
        )


def test_empty_and_deep(run: Any, isa: str, rng: np.random.Generator) -> None:
    params = (np.float32(0.03), np.uint8(128))
    check(run, np.zeros((0, 5, 8), np.float32), weights(rng, 8, 6, 4, 0), None, params, x_bits=8, w_bits=4)
    check(run, rng.normal(size=8).astype(np.float32), weights(rng, 8, 6, 4, 0), None, params, x_bits=8, w_bits=4)
    x = np.full((2, 70000), 1e9, np.float32)  # deeper than 32 bits can sum at once
    check(run, x, weights(rng, 70000, 5, 8, 0, extreme=True), None, params, x_bits=8, w_bits=8)


@pytest.mark.parametrize("scheme", ["uniform", "token"])
@pytest.mark.parametrize(("m", "k", "n"), [(500, 96, 64), (9, 700, 900)])
def test_threads_do_not_change_bytes(run: Any, rng: np.random.Generator, scheme: str, m: int, k: int, n: int) -> None:
    x = rng.normal(size=(m, k)).astype(np.float32)
    _, stored, scale, zero = weights(rng, k, n, 6, 0)
    params = (np.float32(0.03), np.uint8(30)) if scheme == "uniform" else ()
    given = {"K": k, "N": n, "x_bits": 6, "w_bits": 6, "x_scheme": scheme, "epilogue": "gelu", "constants": (1, 2, 3)}
    one, two = (run("QLinear", x, stored, scale, zero, None, *params, threads=t, **given) for t in (1, 2))
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_scheme": "fancy"}, "x_scheme = fancy is not known"),
        ({"x_scheme": "row"}, "x_scheme = row is not known"),
        ({"epilogue": "tanh"}, "epilogue = tanh; it must be none, relu or gelu"),
        ({"N": 5}, "do not hold 40 codes of 8 bits"),
        ({"w_bits": 5}, "do not hold 32 codes of 5 bits"),
        ({"w_group": 4}, "must hold 8 values each"),
        ({"w_group": -1}, "w_group must be 0 to 32768"),
        ({"x_scheme": "table"}, "scheme table of 8 bits needs 256 int8 values"),
        ({"x_scheme": "log_base"}, "scheme log_base of 8 bits needs 256 float values"),
        ({"x_scheme": "outlier_retained"}, "scheme outlier_retained needs"),
        ({"x_scheme": "dual_region"}, "scheme dual_region needs"),
    ],
)
def test_bad_nodes_are_sentences(run: Any, rng: np.random.Generator, changes: dict[str, Any], words: str) -> None:
    _, stored, scale, zero = weights(rng, 8, 4, 8, 0)
    given = {"K": 8, "N": 4, "x_bits": 8, "w_bits": 8, **changes}
    for constants in ((), (1, 2, 3)):
        with pytest.raises(Exception, match=f"onnxptq.QLinear 'node'.*{words}"):
            run(
                "QLinear",
                np.ones((2, 8), np.float32),
                stored,
                scale,
                zero,
                None,
                np.float32(1),
                np.uint8(0),
                constants=constants,
                **given,
            )
    with pytest.raises(Exception, match=r"x \[2, 7\] must end with K = 8"):
        run(
            "QLinear",
            np.ones((2, 7), np.float32),
            stored,
            scale,
            zero,
            None,
            np.float32(1),
            np.uint8(0),
            K=8,
            N=4,
            x_bits=8,
            w_bits=8,
        )
