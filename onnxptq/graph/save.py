"""Save models atomically."""

from __future__ import annotations

import errno
import glob
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import onnx

from onnxptq.errors import InputError

LIMIT = 2**31 - 2**20
"""Maximum size in bytes of a model in one protobuf message."""
OUTSIDE = 1024
"""Minimum size in bytes of a tensor stored in the external file of a large model."""
PAGE = 4096
NAMED = 64
"""Number of characters that the name of a temporary file shares with the final name."""

Writer = Callable[[IO[bytes]], None]


def save(proto: onnx.ModelProto, path: str | Path, *, limit: int = LIMIT) -> None:
    """Save a model atomically; above ``limit`` bytes its tensors go to ``NAME.data`` beside it."""
    target = Path(path)
    if payload(proto) <= limit:
        write_atomic(target, proto.SerializeToString(deterministic=True))
        return
    data = target.with_name(target.name + ".data")
    light: list[bytes] = []

    def tensors(file: IO[bytes]) -> None:
        light.append(_split(proto, data.name, file).SerializeToString(deterministic=True))

    existed = data.exists()
    write_atomic(data, tensors)
    try:
        write_atomic(target, light[0])
    except BaseException:
        if not existed:
            data.unlink(missing_ok=True)
        raise


def write_atomic(path: str | Path, data: bytes | str | Writer) -> None:
    """Write ``data`` (or a callback's output) to ``path`` atomically; on failure the folder is unchanged."""
    target = _target(path)
    if target.exists() and not target.is_file():
        # A device such as /dev/stdout is written in place.
        try:
            with open(target, "wb") as file:
                _fill(file, data)
        except OSError as error:
            raise _failure(path, error) from error
        return
    try:
        handle, name = tempfile.mkstemp(prefix=_part(target), suffix=".part", dir=target.parent)
    except OSError as error:
        raise _failure(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            _fill(file, data)
            os.chmod(name, _mode(target))
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _failure(path, error) from error
        raise
    _sync_folder(target.parent)


def remove_parts(path: str | Path) -> None:
    """Remove temporary files that killed processes left beside ``path``."""
    for target in (Path(os.path.realpath(f"{path}{end}")) for end in ("", ".data")):
        if len(target.name) <= NAMED:
            for part in target.parent.glob(f"{glob.escape(_part(target))}{'?' * 8}.part"):
                part.unlink(missing_ok=True)


def _part(target: Path) -> str:
    """The prefix of temporary file names."""
    return f".{target.name[:NAMED]}."


def check_writable(path: str | Path) -> None:
    """Raise InputError early if ``write_atomic`` could not write there (a full disk excepted)."""
    target = _target(path)
    if target.exists() and not target.is_file():
        if not os.access(target, os.W_OK):
            raise _failure(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
        return
    try:
        handle, name = tempfile.mkstemp(prefix=_part(target), suffix=".part", dir=target.parent)
    except OSError as error:
        raise _failure(path, error) from error
    os.close(handle)
    os.unlink(name)


def payload(proto: onnx.ModelProto) -> int:
    """Size in bytes of a model's tensors, by their shapes; it decides whether the model fits one message."""
    total = 0
    for tensor in proto.graph.initializer:
        count = 1
        for dim in tensor.dims:
            count *= dim
        total += (count * _bits(tensor.data_type) + 7) // 8
    return total


def _bits(data_type: int) -> int:
    if data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return 4
    return 8 * int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def _target(path: str | Path) -> Path:
    """The final path with links resolved; its folder exists."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise InputError(f"{path}: is a folder; give a file name for the output")
    if not target.parent.is_dir():
        raise InputError(f"{path}: there is no folder {target.parent}; create it first")
    return target


def _fill(file: IO[bytes], data: bytes | str | Writer) -> None:
    if callable(data):
        data(file)
    else:
        file.write(data.encode() if isinstance(data, str) else data)


def _mode(target: Path) -> int:
    """Permissions of the replaced file, or the default ones of a new file."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _failure(path: str | Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"{path}: the disk is full; nothing was written")
    return InputError(f"{path}: cannot be written: {error.strerror or error}")


def _sync_folder(folder: Path) -> None:
    """Sync the folder, so that the new name survives a power cut, where the system supports it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _split(proto: onnx.ModelProto, location: str, file: IO[bytes]) -> onnx.ModelProto:
    """The model without its large tensors, which are written to ``file``."""
    light = onnx.ModelProto()
    for descriptor, value in proto.ListFields():
        if descriptor.name == "graph":
            continue
        if hasattr(value, "extend"):
            getattr(light, descriptor.name).extend(value)
        else:
            setattr(light, descriptor.name, value)
    for descriptor, value in proto.graph.ListFields():
        if descriptor.name == "initializer":
            continue
        if hasattr(value, "extend"):
            getattr(light.graph, descriptor.name).extend(value)
        else:
            setattr(light.graph, descriptor.name, value)
    for tensor in proto.graph.initializer:
        raw = tensor.raw_data
        if len(raw) < OUTSIDE:
            light.graph.initializer.append(tensor)
            continue
        file.write(b"\0" * (-file.tell() % PAGE))
        held = light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        held.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(file.tell())), ("length", str(len(raw)))):
            held.external_data.add(key=key, value=value)
        file.write(raw)
    return light
