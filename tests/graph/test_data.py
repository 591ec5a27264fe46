"""Data of tensors: of the length of their shape, and from the model's folder only."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxptq.errors import InputError
from onnxptq.graph import data
from onnxptq.graph.load import load
from tests.graph.build import model, normal, same

SIZE = 40


def written(folder: Path, *, heavy: bool = True, **entries: str) -> Path:
    """A model whose weight lies in ``w.data``, with other entries where they are given."""
    size = SIZE if heavy else 4
    proto = model(f"g (float[2,{size}] x) => (float[2,{size}] y) {{ y = MatMul(x, w) }}", w=normal(size, size))
    weight = proto.graph.initializer[0]
    (folder / "w.data").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "w.data"} | entries).items():
        weight.external_data.add(key=key, value=value)
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def complaint(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text


@pytest.mark.parametrize("heavy", [True, False])
@pytest.mark.parametrize("entries", [{}, {"offset": "0"}, {"length": ""}, {"offset": ""}, {"checksum": "abc"}])
def test_length_and_offset_are_optional(tmp_path: Path, heavy: bool, entries: dict[str, str]) -> None:
    path = written(tmp_path, heavy=heavy, **entries)
    size = SIZE if heavy else 4
    with open(tmp_path / "w.data", "ab") as file:
        file.write(bytes(100))  # of other tensors
    plain = model(f"g (float[2,{size}] x) => (float[2,{size}] y) {{ y = MatMul(x, w) }}", w=normal(size, size))
    same(plain, load(path), {"x": normal(2, size)})


@pytest.mark.parametrize("heavy", [True, False])
@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"location": "/etc/hostname"}, "outside the model's folder"),
        ({"location": "../w.data"}, "outside the model's folder"),
        ({"location": "a/../../w.data"}, "outside the model's folder"),
        ({"location": ""}, "outside the model's folder"),
        ({"location": "w\0.data"}, "outside the model's folder"),
        ({"location": "a" * 5000}, "outside the model's folder"),
        ({"location": "a" * 500}, "missing"),
        ({"location": "."}, "no regular file"),
        ({"offset": "-8"}, "is no size"),
        ({"offset": "1e3"}, "is no size"),
        ({"offset": "9" * 30}, "is no size"),
        ({"offset": str(2**60)}, "are needed"),
        ({"length": "3"}, "its external data has 3"),
        ({"length": str(2**62)}, "its external data has"),
    ],
)
def test_wrong_entries(tmp_path: Path, heavy: bool, entries: dict[str, str], said: str) -> None:
    assert said in complaint(written(tmp_path, heavy=heavy, **entries))


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = written(inside)
    os.replace(inside / "w.data", tmp_path / "secret")
    (inside / "w.data").symlink_to("../secret")
    assert "is a link out of the model's folder" in complaint(path)


def test_a_folder_that_is_a_link(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "outside").mkdir()
    path = written(inside, location="sub/w.data")
    os.replace(inside / "w.data", tmp_path / "outside" / "w.data")
    (inside / "sub").symlink_to("../outside")
    assert "is a link out of the model's folder" in complaint(path)


def test_a_store_of_links(tmp_path: Path) -> None:
    """As caches of downloads are built: model and data are links into one folder."""
    store, view = tmp_path / "blobs", tmp_path / "view"
    store.mkdir()
    view.mkdir()
    path = written(store)
    plain = load(path).to_proto()
    for name in ("m.onnx", "w.data"):
        os.replace(store / name, store / f"hash-{name}")
        (view / name).symlink_to(f"../blobs/hash-{name}")
    same(plain, load(view / "m.onnx"), {"x": normal(2, SIZE)})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes_and_devices(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "w.data").unlink()
    os.mkfifo(tmp_path / "w.data")
    assert "no regular file" in complaint(path)


def test_constants_inside_nodes(tmp_path: Path) -> None:
    proto = model("g (float[2,4] x) => (float[2,4] y) { c = Constant<value = float[4] {1, 2, 3, 4}>() y = Add(x, c) }")
    path, held = tmp_path / "m.onnx", proto.graph.node[0].attribute[0].t
    plain = onnx.ModelProto.FromString(proto.SerializeToString())
    (tmp_path / "c.data").write_bytes(numpy_helper.to_array(held).tobytes())
    held.CopyFrom(TensorProto(data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL))
    held.external_data.add(key="location", value="c.data")
    path.write_bytes(proto.SerializeToString())
    same(plain, load(path), {"x": normal(2, 4)})
    held.external_data[0].value = "/etc/hostname"
    path.write_bytes(proto.SerializeToString())
    assert "outside the model's folder" in complaint(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: setattr(t, "raw_data", t.raw_data[:-1]), "needs 64 bytes, it has 63"),
        (lambda t: setattr(t, "raw_data", t.raw_data + b"\0"), "needs 64 bytes, it has 65"),
        (lambda t: t.ClearField("raw_data"), "needs 16 values, it has 0"),
        (lambda t: t.dims.append(2**62), "needs"),
        (lambda t: t.dims.__setitem__(0, -4), "negative size"),
        (lambda t: setattr(t, "data_type", 0), "unknown type 0"),
        (lambda t: setattr(t, "data_type", 99), "unknown type 99"),
        (lambda t: setattr(t.segment, "begin", 1), "segment"),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_tensors_that_do_not_fit_their_shape(change: object, said: str, inside: bool) -> None:
    proto = model("g (float[2,4] x) => (float[2,4] y) { y = MatMul(x, w) }", w=normal(4, 4))
    tensor = proto.graph.initializer[0]
    if inside:
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
        del proto.graph.initializer[:]
        tensor = proto.graph.node[0].attribute[0].t
    change(tensor)  # type: ignore[operator]
    with pytest.raises(InputError, match=said):
        load(proto)


@pytest.mark.parametrize(
    ("kind", "values", "dtype"),
    [
        (TensorProto.INT4, [-3, 7, 2], np.int8),
        (TensorProto.FLOAT16, [0.5, 2, -1], np.float16),
        (TensorProto.COMPLEX64, [1 + 2j, 0, 3j], np.complex64),
        (TensorProto.BOOL, [True, False, True], np.bool_),
        (TensorProto.UINT64, [1, 2, 2**60], np.uint64),
        (TensorProto.DOUBLE, [1.5, 2, 3], np.float64),
    ],
)
def test_values_in_their_own_fields_fit(kind: int, values: list[complex], dtype: type) -> None:
    data.check(helper.make_tensor("t", kind, [3], np.array(values, dtype)), "m")
