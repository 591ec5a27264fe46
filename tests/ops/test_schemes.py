"""Every registered scheme: NumPy, standard ops and the native kernel agree on any input."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxptq.errors import InputError
from onnxptq.ops import schemes

BITS = range(2, 9)
SCHEMES = sorted(schemes())
STATIC = [name for name, scheme in schemes().items() if not scheme.dynamic]
TINY, LARGE = [1e-45, 5e-39, 1.1754944e-38, 1e-30], [1e10, 3.4028235e38, np.inf]
SPECIAL = np.array([*TINY, 0.0, 0.5, 1.0, 1.5, 2.5, *LARGE, np.nan], np.float32)
SPECIAL = np.concatenate([SPECIAL, -SPECIAL])
RANGES = [
    (0.0, 1.0),
    (-1.0, 1.0),
    (-0.17, 6.0),
    (0.0, 1e-38),
    (-3e38, 3e38),
    (0.0, 0.0),
    (-1e-20, 1e-30),
    (-7.0, -1.0),
    (2.0, 1e6),
]


def all_values(scheme: Any, p: Any) -> NDArray[np.float32]:
    """Every value the code can say."""
    count = round(2 ** scheme.bits_per_element(p, 1))
    groups = p.attributes().get("groups", 1)
    codes = np.arange(min(count, groups << p.bits), dtype=scheme.encode(np.zeros(1, np.float32), p).dtype)
    return np.asarray(scheme.decode(codes, p))


def awkward(scheme: Any, p: Any, rng: np.random.Generator) -> NDArray[np.float32]:
    """Special numbers, the code's own values, their midpoints (ties), thresholds, and the neighbours of all these."""
    parts = [SPECIAL, rng.normal(size=64).astype(np.float32)]
    if not scheme.dynamic:
        values = np.sort(all_values(scheme, p).ravel()).astype(np.float64)
        exact = [values, (values[1:] + values[:-1]) / 2]
        exact += [np.ravel(v).astype(np.float64) for v in p.inputs().values() if v.dtype == np.float32]
        near = np.concatenate(exact).astype(np.float32)
        spread = rng.normal(size=64) * max(float(np.abs(values).max()), 1e-45)
        parts += [near, -near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
        parts += [np.clip(spread, -3.4e38, 3.4e38).astype(np.float32)]
    return np.concatenate(parts)


def some_params(name: str, bits: int) -> list[Any]:
    """A spread of the scheme's own candidates over all kinds of ranges."""
    found = []
    for low, high in RANGES:
        candidates = list(schemes()[name].grid(low, high, bits))
        assert candidates, (name, low, high, bits)
        found += candidates[:: max(1, len(candidates) // 6)] + candidates[-1:]
    return found


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", SCHEMES)
def test_faces_agree_bit_for_bit(name: str, bits: int, run_scheme: Any) -> None:
    scheme, rng = schemes()[name], np.random.default_rng(bits)
    for p in some_params(name, bits):
        x = awkward(scheme, p, rng)
        faked = scheme.fake(x, p)
        for shape in [(-1,), (1, -1, 1)]:
            got = run_scheme(name, x.reshape(shape), p)
            np.testing.assert_array_equal(got["faked"], scheme.fake(x.reshape(shape), p), err_msg=str(p))
            if "codes" in got:
                np.testing.assert_array_equal(got["codes"], scheme.encode(x.reshape(shape), p), err_msg=str(p))
                assert got["codes"].dtype == scheme.encode(x, p).dtype
                np.testing.assert_array_equal(got["decoded"].ravel(), faked, err_msg=str(p))


@pytest.mark.parametrize("name", SCHEMES)
@given(data=st.data(), bits=st.integers(2, 8))
def test_faces_agree_on_drawn_arrays(name: str, run_scheme_each: Any, data: st.DataObject, bits: int) -> None:
    scheme = schemes()[name]
    finite = st.floats(-1e6, 1e6, width=32)
    low, high = sorted((data.draw(finite), data.draw(finite)))
    p = data.draw(st.sampled_from(list(scheme.grid(low, high, bits))))
    shape = data.draw(st.sampled_from([(1,), (7,), (0, 3), (2, 3, 5), (3, 1), (1, 2, 1, 33)]))
    drawn = data.draw(
        st.lists(st.floats(width=32) | finite, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))
    )
    x = np.array(drawn, np.float32).reshape(shape)
    for run_scheme in run_scheme_each:
        got = run_scheme(name, x, p)
        np.testing.assert_array_equal(got["faked"], scheme.fake(x, p))
        if "codes" in got:
            np.testing.assert_array_equal(got["codes"], scheme.encode(x, p))
            np.testing.assert_array_equal(got["decoded"], scheme.fake(x, p))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", STATIC)
def test_codes_are_honest(name: str, bits: int) -> None:
    """Codes fit their width, NaN is code 0, and, where the scheme says so, values rise with x and coding them again
    changes nothing."""
    scheme = schemes()[name]
    for p in some_params(name, bits):
        x = awkward(scheme, p, np.random.default_rng(bits))
        codes = scheme.encode(x, p)
        assert int(codes.max()) < 2 ** scheme.bits_per_element(p, x.size)
        assert (codes[np.isnan(x)] == 0).all()
        if all(np.abs(v.astype(np.float64)).max(initial=0) < 1e36 for v in p.inputs().values()):
            assert np.isfinite(scheme.decode(codes, p)).all()
        if scheme.monotone:
            faked = scheme.fake(np.sort(x[~np.isnan(x)]), p)
            assert (faked == np.maximum.accumulate(faked)).all(), p
            np.testing.assert_array_equal(scheme.fake(faked, p), faked, err_msg=str(p))


@pytest.mark.parametrize("name", SCHEMES)
def test_params_survive_json(name: str) -> None:
    scheme = schemes()[name]
    for p in some_params(name, 5):
        again = scheme.from_json(json.loads(json.dumps(p.to_json())))
        assert again == p
        assert hash(again) == hash(p)
        assert [a.tobytes() for a in again.inputs().values()] == [a.tobytes() for a in p.inputs().values()]
        assert list(p.inputs()) == list(scheme.inputs)
        assert p.attributes().keys() == scheme.attributes.keys()


@pytest.mark.parametrize("name", SCHEMES)
def test_params_refuse_nonsense(name: str) -> None:
    scheme = schemes()[name]
    data = some_params(name, 4)[0].to_json()
    for bits in (1, 9, True, "4", 4.0):
        with pytest.raises(InputError, match="bits"):
            scheme.from_json(data | {"bits": bits})
    for key, value in data.items():
        if isinstance(value, float | list):
            worst = float("nan") if isinstance(value, float) else np.full(np.shape(value), np.nan).tolist()
            if np.size(worst):
                with pytest.raises(InputError, match=r"mend the plan"):
                    scheme.from_json(data | {key: worst})


@pytest.mark.parametrize("name", SCHEMES)
def test_constant_and_empty_tensors(name: str) -> None:
    scheme = schemes()[name]
    for bits in BITS:
        for p in some_params(name, bits)[::4]:
            assert scheme.fake(np.zeros((0, 4), np.float32), p).shape == (0, 4)
            assert np.isfinite(scheme.fake(np.zeros((2, 3), np.float32), p)).all()
            for constant in (1.0, -2.0, 1e-42):
                faked = scheme.fake(np.full((2, 3), constant, np.float32), p)
                assert (faked == faked.flat[0]).all()


def test_dynamic_schemes_decode_only_with_their_tensor() -> None:
    for name in set(SCHEMES) - set(STATIC):
        p = next(iter(schemes()[name].grid(0.0, 1.0, 4)))
        with pytest.raises(TypeError, match="fake"):
            schemes()[name].decode(np.zeros(3, np.uint8), p)
