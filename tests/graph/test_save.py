"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import pytest

from onnxptq.errors import InputError
from onnxptq.graph.save import check_writable, payload, save, write_atomic
from tests.graph.build import model, normal, run

FULL = Path("/dev/full")


@pytest.fixture
def proto() -> onnx.ModelProto:
    return model(
        "g (float[B,64] x) => (float[B,64] y) { p = MatMul(x, w) y = Add(p, b) }", w=normal(64, 64), b=normal(64)
    )


def test_round_trip_and_equal_bytes(proto: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save(proto, path)
    first = path.read_bytes()
    save(proto, path)
    assert path.read_bytes() == first
    assert os.listdir(tmp_path) == ["m.onnx"]
    feeds = {"x": normal(3, 64)}
    np.testing.assert_array_equal(run(onnx.load(path), feeds)[0], run(proto, feeds)[0])


def test_large_models_keep_their_tensors_beside(proto: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    before = proto.SerializeToString(deterministic=True)
    save(proto, path, limit=1000)
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
    assert path.stat().st_size < 2000
    assert proto.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(str(path), full_check=True)
    feeds = {"x": normal(3, 64)}
    np.testing.assert_array_equal(run(onnx.load(path), feeds)[0], run(proto, feeds)[0])
    light = onnx.load(path, load_external_data=False)
    assert [t.name for t in light.graph.initializer if t.data_location] == ["w"]


def test_payload_is_the_size_of_the_tensors(proto: onnx.ModelProto) -> None:
    assert payload(proto) == 4 * (64 * 64 + 64)
    packed = onnx.helper.make_tensor("c", onnx.TensorProto.INT4, [5], [1, 2, 3, 4, 5])
    proto.graph.initializer.append(packed)
    assert payload(proto) == 4 * (64 * 64 + 64) + 3


def test_existing_file_is_kept_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def fails(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="disk is full"):
        write_atomic(path, fails)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(file: IO[bytes]) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "out", interrupted)
    assert os.listdir(tmp_path) == []


def test_tensors_beside_are_taken_back_when_the_model_fails(
    proto: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def second_fails(source: str, target: Path) -> None:
        if str(target).endswith(".onnx"):
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(InputError, match="cannot be written"):
        save(proto, tmp_path / "m.onnx", limit=1000)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_disk_full_and_devices_survive(proto: onnx.ModelProto) -> None:
    with pytest.raises(InputError, match="disk is full"):
        save(proto, FULL)
    assert stat.S_ISCHR(FULL.stat().st_mode)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "m.onnx", "there is no folder"),
        (tmp_path / "file" / "m", "no folder"),
    ):
        for act in (check_writable, lambda p: write_atomic(p, b"x")):
            with pytest.raises(InputError, match=said) as caught:
                act(path)
            assert "\n" not in str(caught.value)


def test_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> tuple[int, str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("onnxptq.graph.save.tempfile.mkstemp", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        check_writable(tmp_path / "m.onnx")


def test_check_writable_leaves_no_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []
    (tmp_path / "m.onnx").write_text("old")
    check_writable(tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_text() == "old"


def test_links_and_permissions_are_kept(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_atomic(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_atomic(tmp_path / "new", b"x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
