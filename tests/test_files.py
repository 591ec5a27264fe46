"""Readers of files: valid content, and one line that names the file for anything else."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxptq.errors import InputError
from onnxptq.files import Archive, finite, read_bytes, read_json, reading, require, whole

MOST = 2**20


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("as it was"), "^as it was$"),
        (ValueError("bad\nsecond line"), "^f: cannot be read: bad$"),
        (KeyError("name"), "^f: cannot be read: it has no 'name'$"),
        (FileNotFoundError(2, "No such file", "g"), "^f: cannot be read: No such file$"),
        (RecursionError("deep"), "^f: is nested too deeply$"),
        (MemoryError(), "^f: needs more memory than there is$"),
        (RuntimeError("File is encrypted"), "^f: cannot be read: File is encrypted$"),
    ],
)
def test_every_exception_becomes_one_line(error: Exception, message: str) -> None:
    with pytest.raises(InputError, match=message), reading("f"):
        raise error


def test_an_interruption_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt), reading("f"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"[" * 100000, "nested too deeply"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b"[Infinity]", "Infinity is not a number"),
        (b"[" + b"9" * 5000 + b"]", "not valid JSON: Exceeds the limit"),
        (b"\xff\xfe", "cannot be read"),
        (b"[1", "not valid JSON"),
    ],
)
def test_json(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(InputError, match=rf"a\.json: .*{message}"):
        read_json(tmp_path / "a.json")


def test_devices_and_endless_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="/dev/zero: is a device"):
        read_json(Path("/dev/zero"))
    (tmp_path / "a").write_bytes(bytes(9))
    assert read_bytes(tmp_path / "a", most=9) == bytes(9)
    with pytest.raises(InputError, match="holds more than 8 bytes"):
        read_bytes(tmp_path / "a", most=8)
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path / ("x" * 5000))


@pytest.mark.parametrize("value", [True, 1.5, "1", None, 2**63, float("inf"), float("nan"), [1], 10**400])
def test_whole_numbers(value: Any) -> None:
    assert whole(3.0) == 3
    with pytest.raises(ValueError, match="not"):
        whole(value)


@pytest.mark.parametrize("value", [True, "1", None, float("inf"), float("nan"), [1], 10**400])
def test_finite_numbers(value: Any) -> None:
    assert finite(3) == 3.0
    with pytest.raises(ValueError, match="not a finite number"):
        finite(value)


def test_required_kinds() -> None:
    assert require({}, dict, "recipe") == {}
    with pytest.raises(InputError, match=r"^recipe: expected a table, got 3$"):
        require(3, dict, "recipe")


def npy(
    shape: tuple[Any, ...] = (2,), kind: str = "<f4", data: bytes = bytes(8), version: bytes = b"\x01\x00"
) -> bytes:
    """An .npy file with that header, whatever it holds."""
    header = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


def npz(*members: bytes, encrypted: bool = False, method: int = zipfile.ZIP_STORED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as archive:
        for index, member in enumerate(members):
            archive.writestr(f"a{index}.npy", member)
    data = bytearray(held.getvalue())
    if encrypted:
        data[6] |= 1
        data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def broken(data: bytes, *, method: int) -> bytes:
    """The archive with a byte of its compressed data changed."""
    whole = bytearray(npz(data, method=method))
    start = 30 + len("a0.npy") + 12
    whole[start : start + 20] = b"\xff" * 20
    return bytes(whole)


CRAFTED = {
    "empty": b"",
    "no archive": b"PK\x03\x04 nonsense",
    "no npy inside": npz(b"hello"),
    "shape of 2^70": npz(npy((2**70,))),
    "shape of 2^40 in an npy": npy((2**40,)),
    "a negative dimension": npz(npy((-1,))),
    "a dimension that is no number": npz(npy(("a",))),
    "Python objects": npz(npy(kind="|O")),
    "elements of a gigabyte": npz(npy((0,), kind="|V1000000000")),
    "more than it holds": npz(npy((3,))),
    "more than the limit": npz(npy((2**18 + 1,), data=bytes(4 * (2**18 + 1))), method=zipfile.ZIP_DEFLATED),
    "encrypted": npz(npy(), encrypted=True),
    "broken LZMA": broken(npy(), method=zipfile.ZIP_LZMA),
    "broken deflate": broken(npy((999,), data=bytes(3996)), method=zipfile.ZIP_DEFLATED),
    "NumPy format 9": npz(npy(version=b"\x09\x00")),
    "no header": npz(b"\x93NUMPY\x01\x00\xff\xff{"),
    "code in the header": npz(b"\x93NUMPY\x01\x00\x10\x00__import__('os')"),
    "unknown type": npz(npy(kind="<q9")),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_arrays_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(CRAFTED[name])
    with pytest.raises(InputError, match=r"a\.npz: (cannot be read as NumPy arrays|holds .* at most)") as error:
        Archive(path, most=MOST).arrays()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays(tmp_path: Path, save: Callable[..., None]) -> None:
    held = {"a": np.arange(6, dtype=">f4").reshape(2, 3), "b/c": np.array(True), "d": np.zeros((0, 5), np.uint8)}
    save(tmp_path / "a.npz", **held)
    archive = Archive(tmp_path / "a.npz", most=MOST)
    assert archive.headers == {name: (array.dtype, array.shape) for name, array in held.items()}
    for name, array in archive.arrays().items():
        np.testing.assert_array_equal(array, held[name])
    np.save(tmp_path / "a.npy", np.arange(3))
    np.testing.assert_array_equal(Archive(tmp_path / "a.npy", most=MOST).arrays()[""], [0, 1, 2])


def test_json_of_any_depth_that_python_writes(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"a": [1, 2.5, None, "ü", 2**64]}))
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None, "ü", 2**64]}
