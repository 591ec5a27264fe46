"""Models from paths, bytes and messages; bad input is one line that helps."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxptq.errors import InputError
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.data import KEEP
from onnxptq.graph.load import load
from tests.graph.build import model, normal, run, same

WIDE = 96


@pytest.fixture
def proto() -> onnx.ModelProto:
    return model(
        "g (float[B,4,T] x) => (float[B,4,T] y) { p = MatMul(w, x) q = Add(p, b) y = Relu(q) }",
        w=normal(4, 4),
        b=normal(4, 1, seed=1),
    )


def external(folder: Path, *, size: int = WIDE) -> Path:
    held = model(
        f"g (float[2,{size}] x) => (float[2,{size}] y) {{ p = MatMul(x, w) y = Add(p, b) }}",
        w=normal(size, size),
        b=normal(size),
    )
    path = folder / "outside.onnx"
    onnx.save_model(held, str(path), save_as_external_data=True, location="outside.data", size_threshold=0)
    return path


def complaint(source: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load(source, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_path_bytes_and_message_are_one(proto: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    feeds = {"x": normal(2, 4, 3)}
    for source in (path, str(path), proto.SerializeToString(), proto):
        same(proto, load(source), feeds)


def test_a_message_is_left_as_it_was(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(onnx.numpy_helper.from_array(normal(64, 64), "unused"))
    before = proto.SerializeToString(deterministic=True)
    load(proto)
    assert proto.SerializeToString(deterministic=True) == before


def test_external_data_may_change_once_it_is_loaded(tmp_path: Path) -> None:
    path = external(tmp_path)
    proto = onnx.load(path)
    held = load(path)
    with open(tmp_path / "outside.data", "r+b") as file:
        file.truncate(1)
    same(proto, held, {"x": normal(2, WIDE)})


def test_initialisers_that_are_inputs_too(proto: onnx.ModelProto) -> None:
    proto.ir_version = 3
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 4]))
    assert [t.name for t in load(proto).graph.inputs] == ["x"]


def test_values_stored_as_numbers(proto: onnx.ModelProto) -> None:
    big = normal(40, 40)
    stored = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, big.shape, big.reshape(-1).tolist())
    held = model("g (float[B,40] x) => (float[B,40] y) { y = MatMul(x, w) }", w=big)
    del held.graph.initializer[:]
    held.graph.initializer.append(stored)
    same(held, load(held), {"x": normal(2, 40)})


def test_missing_file_names_a_near_one(proto: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(proto, tmp_path / "encoder.onnx")
    assert "did you mean encoder.onnx" in complaint(tmp_path / "encodr.onnx")
    assert "no such file" in complaint(tmp_path / "nowhere" / "x.onnx")


def test_folder(proto: onnx.ModelProto, tmp_path: Path) -> None:
    assert "is a folder" in complaint(tmp_path)
    onnx.save(proto, tmp_path / "m.onnx")
    assert "m.onnx" in complaint(tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"import torch\nprint('hello')\n", "text file"),
        (b'{"a": 1}\n' * 900, "text file"),
        (bytes(range(256)) * 8, "not an ONNX model"),
        (b"\x08\x0a", "no graph"),
        (b"PK\x03\x04" + bytes(60), "not an ONNX model"),
    ],
)
def test_no_model(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    text = complaint(path)
    assert said in text
    assert "m.onnx" in text
    assert said in complaint(data)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95, 0.999])
def test_cut_off(share: float) -> None:
    whole = model("g (float[B,64] x) => (float[B,64] y) { y = MatMul(x, w) }", w=normal(64, 64)).SerializeToString()
    assert complaint(whole[: int(len(whole) * share)])


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"x")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "Permission denied" in complaint(path)


def test_external_data_missing_or_short(tmp_path: Path) -> None:
    path = external(tmp_path)
    data = tmp_path / "outside.data"
    whole = data.read_bytes()
    data.write_bytes(whole[:-10])
    assert "outside.data" in complaint(path)
    data.unlink()
    assert "missing" in complaint(path)
    assert "path" in complaint(path.read_bytes())


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "a"
    inside.mkdir()
    path = external(inside)
    held = onnx.load(path, load_external_data=False)
    for tensor in held.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret.data"
    path.write_bytes(held.SerializeToString())
    assert "outside the model's folder" in complaint(path)


def test_tensor_of_another_size_than_it_says() -> None:
    held = model("g (float[B,64] x) => (float[B,64] y) { y = MatMul(x, w) }", w=normal(64, 64))
    held.graph.initializer[0].raw_data = held.graph.initializer[0].raw_data[:-4]
    assert "'w'" in complaint(held)


def test_opset_of_the_future(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 99
    assert "opset 99" in complaint(proto)
    del proto.opset_import[:]
    assert "operator set" in complaint(proto)


def test_shapes_are_fixed_everywhere(proto: onnx.ModelProto) -> None:
    fixed = canonicalise(load(proto, shapes={"x": [2, 4, 3]}))
    assert fixed.graph.inputs[0].shape == [2, 4, 3]
    assert fixed.graph.outputs[0].shape == [2, 4, 3]
    same(proto, fixed, {"x": normal(2, 4, 3)})


def test_a_symbol_fixed_on_one_input_is_fixed_on_all() -> None:
    held = load(
        model("g (float[B,3] x, float[B,3] z) => (float[B,3] y) { y = Add(x, z) }"),
        shapes={"x": [5, 3]},
    )
    assert [t.shape for t in held.graph.inputs] == [[5, 3], [5, 3]]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"z": [1]}, "no such input"),
        ({"xx": [2, 4, 3]}, "did you mean 'x'"),
        ({"x": [2, 4]}, "does not fit"),
        ({"x": [2, 5, 3]}, "does not fit"),
        ({"x": [0, 4, 3]}, "at least 1"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, list[int]], said: str, proto: onnx.ModelProto) -> None:
    text = complaint(proto, shapes=shapes)
    assert said in text
    assert text.startswith("--shape")


def test_graphs_that_do_not_hang_together(proto: onnx.ModelProto) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(proto)
    broken.graph.node[1].input[0] = "nowhere"
    assert "'nowhere', which nothing makes" in complaint(broken)
    proto.graph.node[0].input[1] = "y"
    assert "cycle" in complaint(proto)


def test_small_tensors_outside_come_in(tmp_path: Path) -> None:
    path = external(tmp_path, size=4)
    assert KEEP > 16
    same(onnx.load(path), load(path), {"x": normal(2, 4)})
    assert run(onnx.load(path), {"x": normal(2, 4)})
