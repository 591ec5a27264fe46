"""Weights at their true width."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.ops.pack import dequantize, pack, packed_size, signed_codes, store_weight, unpack

BITS = range(2, 9)


@given(bits=st.integers(2, 8), codes=st.lists(st.integers(0, 255), max_size=70))
def test_unpack_undoes_pack(bits: int, codes: list[int]) -> None:
    held = (np.array(codes, np.uint8) % 2**bits).astype(np.uint8)
    stream = pack(held, bits)
    assert stream.dtype == np.uint8
    assert stream.size == packed_size(held.size, bits)
    np.testing.assert_array_equal(unpack(stream, bits, held.size), held)


@given(bits=st.integers(2, 8), codes=st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_stream_is_one_little_endian_number(bits: int, codes: list[int]) -> None:
    held = [c % 2**bits for c in codes]
    number = sum(c << (bits * i) for i, c in enumerate(held))
    assert int.from_bytes(pack(np.array(held, np.uint8), bits).tobytes(), "little") == number


def test_six_bits_put_four_codes_into_three_bytes() -> None:
    assert pack(np.array([1, 2, 3, 4], np.uint8), 6).tolist()[:3] == [0b10000001, 0b00110000, 0b00010000]
    assert packed_size(1024, 6) == 768


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(3, 5), (1,), (0, 4), (2, 3, 3, 3)])
def test_stored_weights_come_back(bits: int, shape: tuple[int, ...]) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, shape).astype(np.uint8)
    stored = store_weight(codes, bits)
    if bits == 4:
        assert isinstance(stored, onnx.TensorProto)
        assert stored.data_type == onnx.TensorProto.INT4
        assert tuple(stored.dims) == shape
        assert len(stored.raw_data) == -(-codes.size // 2)
    else:
        assert isinstance(stored, np.ndarray)
        assert stored.dtype == (np.int8 if bits == 8 else np.uint8)
        assert stored.nbytes == (codes.size if bits == 8 else packed_size(codes.size, bits))
    back = signed_codes(stored, bits, shape)
    np.testing.assert_array_equal(back.astype(int), codes.astype(int) - 2 ** (bits - 1))


def test_groups_of_rows_have_their_own_scale() -> None:
    codes = np.full((5, 2), 130, np.uint8)
    scale = np.array([[1, 10], [2, 20], [3, 30]], np.float32)
    zero = np.zeros((3, 2), np.int8)
    got = dequantize(store_weight(codes, 8), scale, zero, bits=8, shape=(5, 2), axis=1, group=2)
    np.testing.assert_array_equal(got, 2 * scale[[0, 0, 1, 1, 2]])
