"""Sources: every kind gives the same checked samples in every walk; every bad one is one line with its fault."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from onnxptq.calibration.sources.inputs import input_specs
from onnxptq.calibration.sources.opening import open_source
from onnxptq.calibration.sources.source import InputSpec, Source
from onnxptq.errors import InputError
from tests.calibration.small import encoder, model

F32 = np.dtype(np.float32)
X = InputSpec("x", F32, ("batch", 3))
PAIR = (X, InputSpec("n", np.dtype(np.int64), (2,), below=5))
PICTURE = InputSpec("image", F32, (1, 3, 8, 12))


def x(value: float = 1.0, batch: int = 2) -> dict[str, NDArray[Any]]:
    return {"x": np.full((batch, 3), value, np.float32)}


def picture(path: Path, *, size: tuple[int, int] = (30, 20), colour: tuple[int, int, int] = (10, 20, 30)) -> None:
    Image.new("RGB", size, colour).save(path)


def fails(match: str, spec: Any, inputs: Any = (X,), **options: Any) -> None:
    with pytest.raises(InputError, match=match) as caught:
        list(open_source(spec, inputs=inputs, **options))
    assert "\n" not in str(caught.value)


def values(source: Source) -> list[float]:
    return [float(sample["x"][0, 0]) for sample in source]


class Reader:
    """As onnxruntime's CalibrationDataReader."""

    def __init__(self) -> None:
        self.left = [x(1), x(2)]

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return self.left.pop(0) if self.left else None


class Loader:
    """Makes its samples anew in every walk."""

    def __init__(self, count: int = 3) -> None:
        self.count = count

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        return (x(i) for i in range(self.count))


@pytest.mark.parametrize("given_", [[x(0), x(1)], (x(0), x(1)), (x(i) for i in range(2)), Loader()])
def test_samples_in_memory_from_iterators_and_loaders(given_: Any) -> None:
    source = open_source(given_, inputs=[X], samples=2)
    assert len(source) == 2
    assert values(source) == values(source) == [0.0, 1.0]
    assert [float(s["x"][0, 0]) for s in source.iterate(1)] == [1.0]
    assert (
        source.digest()
        == open_source([x(0), x(1)], inputs=[X]).digest()
        != open_source([x(0), x(2)], inputs=[X]).digest()
    )


def rows(number: float = 1.0) -> NDArray[Any]:
    return x(number)["x"]


@pytest.mark.parametrize(
    "given_",
    [
        [rows(0), rows(1)],
        [(rows(0),), [rows(1)]],
        (rows(i) for i in range(2)),
        np.stack([rows(0), rows(1)]),
        {"x": np.stack([rows(0), rows(1)])},
    ],
)
def test_arrays_and_tuples(given_: Any) -> None:
    assert values(open_source(given_, inputs=[X])) == [0.0, 1.0]


def test_transform() -> None:
    """The function runs on each item, in every walk of a list and once for a generator."""
    labelled = [(rows(i), "label") for i in range(3)]
    for given_ in (labelled, iter(labelled)):
        source = open_source(given_, inputs=[X], transform=lambda item: item[0])
        assert values(source) == values(source) == [0.0, 1.0, 2.0]
    for wrong in ("synthetic", {"x": rows()}, rows()):
        with pytest.raises(InputError, match="transform: is for an iterable of samples"):
            open_source(wrong, inputs=[X], transform=lambda item: item)


def test_a_torch_loader() -> None:
    """Batches of tensors, with labels that a transform drops; a shuffled loader gives one order for all walks."""
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.arange(8.0)[:, None].expand(8, 3), torch.zeros(8))
    for shuffle in (False, True):
        loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=shuffle)
        source = open_source(loader, inputs=[X], transform=lambda batch: batch[0])
        assert len(source) == 4
        assert values(source) == values(source)
        assert sorted(float(n) for s in source for n in s["x"][:, 0]) == list(range(8))
    assert len(open_source(loader, inputs=[X], transform=lambda batch: {"x": batch[0]}, samples=3)) == 3


def test_an_onnxruntime_reader() -> None:
    source = open_source(Reader(), inputs=[X])
    assert values(source) == values(source) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("sample", "match"),
    [
        ({}, "sample 1: input 'x' is missing; it holds nothing; the model takes x"),
        ({"y": np.ones((2, 3), np.float32)}, "input 'x' is missing; it holds y"),
        ({**x(), "z": np.ones(1)}, "the model has no input 'z'; it takes x"),
        (
            {"x": np.ones((2, 3), np.int64)},
            r"input 'x' is int64, the model takes float32; convert it with .astype\('float32'\)",
        ),
        ({"x": np.full((2, 3), 1e300)}, "input 'x' holds NaN or infinity as float32"),
        ({"x": np.ones((2, 4), np.float32)}, r"input 'x' has shape \[2, 4\], the model takes float32 \[batch, 3\]"),
        ({"x": np.ones(3, np.float32)}, r"has shape \[3\]"),
        (x(np.nan), "input 'x' holds NaN or infinity"),
        (x(np.inf), "input 'x' holds NaN or infinity"),
        ({"x": [[1], [1, 2]]}, "input 'x' is no array"),
        ([1, 2], "expected a mapping of input names to arrays, an array, or a tuple of arrays, got list"),
        ("x", "or a tuple of arrays, got str"),
        ((x()["x"], x()["x"]), r"2 arrays for 1 inputs \(x\); transform=lambda item: ... picks them"),
    ],
)
def test_wrong_samples(sample: Any, match: str) -> None:
    fails(match, [x(), sample])


@pytest.mark.parametrize(
    ("dtype", "wanted", "notes"),
    [
        ("float32", "float16", ["input 'x': float32 samples are cast to float16"]),
        ("float64", "float32", ["input 'x': float64 samples are cast to float32"]),
        (">f4", "float32", []),
        ("int32", "int64", ["input 'x': int32 samples are cast to int64"]),
        ("int64", "bool", ["input 'x': int64 samples are cast to bool"]),
    ],
)
def test_samples_of_another_width_or_byte_order_are_cast(dtype: str, wanted: str, notes: list[str]) -> None:
    source = open_source([{"x": np.ones((2, 3), dtype)}] * 2, inputs=[InputSpec("x", np.dtype(wanted), (2, 3))])
    (first, _) = list(source)
    assert first["x"].dtype == np.dtype(wanted)
    assert (first["x"] == 1).all()
    assert source.notes == notes


def test_integers_that_do_not_fit_are_refused() -> None:
    ids = InputSpec("x", np.dtype(np.int8), (1,))
    fails("input 'x' is int64, the model takes int8", [{"x": np.array([300])}], [ids])


def test_wrong_collections() -> None:
    fails("there is no sample", [])
    fails("expected a path, 'synthetic' or an iterable of samples, got int", 3)
    fails("--samples 0: give at least 1", [x()], samples=0)
    fails("gave 2 samples in this walk, 3 before", Loader(2))
    fails(r"holds 0 \.\. 5, but indexes a table of 5 rows", [{**x(), "n": np.array([0, 5])}], PAIR)


def test_npz_files_of_a_folder_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, value in (("b", 2), ("a", 1), ("c", 3)):
        np.savez(tmp_path / f"{name}.npz", **x(value))
    source = open_source(tmp_path, inputs=[X], samples=2, draw="first")
    assert values(source) == [1.0, 2.0]
    assert source.name == f"2 .npz files of {tmp_path.name}"
    before = source.digest()
    np.savez(tmp_path / "a.npz", **x(7))
    assert source.digest() != before


def test_npy_files_and_single_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", x(5)["x"])
    assert values(open_source(str(tmp_path), inputs=[X])) == [5.0]
    assert values(open_source(tmp_path / "a.npy", inputs=[X])) == [5.0]
    np.savez(tmp_path / "stack.npz", x=np.stack([x(1)["x"], x(2)["x"]]))
    assert values(open_source(tmp_path / "stack.npz", inputs=[X])) == [1.0, 2.0]
    np.savez(tmp_path / "long.npz", x=np.arange(6, dtype=np.float32).reshape(2, 3))
    assert values(open_source(tmp_path / "long.npz", inputs=[InputSpec("x", F32, (1, 3))])) == [0.0, 3.0]


def test_wrong_paths(tmp_path: Path) -> None:
    fails("no such file or folder", tmp_path / "nothing")
    fails("the folder holds no image, .npz or .npy file", tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    fails("not a folder, an image, .npz or .npy", tmp_path / "a.txt")
    (tmp_path / "a.npz").write_bytes(b"PK nonsense")
    fails("a.npz: cannot be read as NumPy arrays", tmp_path)
    np.save(tmp_path / "b.npy", np.ones((2, 3), np.float32))
    fails("holds .npz and .npy files; give one kind", tmp_path)
    fails("an .npy feeds a model with one input, this one takes x, n", tmp_path / "b.npy", PAIR)
    np.save(tmp_path / "c.npy", np.array([{}], dtype=object), allow_pickle=True)
    fails("c.npy: cannot be read", tmp_path / "c.npy")


def test_a_wrong_file_is_found_before_the_first_walk(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **x())
    np.savez(tmp_path / "b.npz", **x(np.nan))
    with pytest.raises(InputError, match=r"b.npz: input 'x' holds NaN"):
        open_source(tmp_path, inputs=[X])


@pytest.mark.parametrize(
    ("preprocess", "expected"),
    [("raw", 10.0), ("unit", 10 / 255), ("imagenet", (10 - 123.675) / 58.395), ("sam", (10 - 123.675) / 58.395)],
)
def test_images(tmp_path: Path, preprocess: str, expected: float) -> None:
    picture(tmp_path / "b.png")
    picture(tmp_path / "a.jpg", colour=(10, 10, 10))
    source = open_source(tmp_path, inputs=[PICTURE], preprocess=preprocess)
    first, second = (sample["image"] for sample in source)
    assert first.shape == second.shape == (1, 3, 8, 12)
    assert second[0, 0, 0, 0] == pytest.approx(expected)
    assert second[0, 2, 0, 0] > second[0, 0, 0, 0] or preprocess not in ("raw", "unit")
    assert preprocess in source.name
    digests = {open_source(tmp_path, inputs=[PICTURE], preprocess=p).digest() for p in ("raw", "unit")}
    assert len(digests) == 2


def test_sam_keeps_the_aspect_and_pads(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", size=(10, 20))
    (sample,) = open_source(tmp_path, inputs=[PICTURE], preprocess="sam")
    assert (sample["image"][0, 0, :, :4] != 0).all()
    assert not sample["image"][..., 4:].any()


@pytest.mark.parametrize("shape", [(1, 8, 12, 3), (8, 12, 3), (3, 8, 12), ("n", 1, 8, 12)])
def test_other_image_layouts(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    picture(tmp_path / "a.png")
    (sample,) = open_source(tmp_path / "a.png", inputs=[InputSpec("image", np.dtype(np.uint8), shape)])
    assert sample["image"].shape == tuple(1 if n == "n" else n for n in shape)
    assert 10 <= sample["image"].min() <= sample["image"].max() <= 30


def test_wrong_images(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    fails("--preprocess 'clip': use one of imagenet, sam, unit, raw", tmp_path, [PICTURE], preprocess="clip")
    fails("images feed a model with one input, this one takes x, n; give .npz files", tmp_path, PAIR)
    fails("which is no image of 1 or 3 colours", tmp_path, [X])
    fails(
        r"give the size images go to: --shape image=1,3,HEIGHT,WIDTH",
        tmp_path,
        [InputSpec("image", F32, (1, 3, "h", "w"))],
    )
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    fails(r"image .*b.png: cannot be read", tmp_path, [PICTURE])
    (tmp_path / "b.png").write_text("no picture")
    fails(r"image .*b.png: cannot be read", tmp_path, [PICTURE])


def test_synthetic_samples_are_seeded_and_fit() -> None:
    specs = [
        InputSpec("image", F32, ("batch", 3, "h", "w")),
        InputSpec("ids", np.dtype(np.int64), ("batch", "tokens"), below=7),
        InputSpec("mask", np.dtype(np.int32), ("batch", "tokens"), mask=True),
        InputSpec("flag", np.dtype(np.bool_), (2,)),
        InputSpec("z", np.dtype(np.float16), (None, None, 5)),
    ]
    source = open_source(inputs=specs, seed=3, samples=2)
    first, second = source
    assert {name: array.shape for name, array in first.items()} == {
        "image": (1, 3, 64, 64),
        "ids": (1, 32),
        "mask": (1, 32),
        "flag": (2,),
        "z": (1, 64, 5),
    }
    assert first["mask"].all()
    assert first["flag"].all()
    assert 0 <= first["ids"].min() <= first["ids"].max() == 6
    assert abs(first["image"].mean()) < 1.5
    assert 0.5 < first["image"].std() < 2
    assert not np.array_equal(first["image"], second["image"])
    same, other = (open_source(inputs=specs, seed=seed, samples=2) for seed in (3, 4))
    np.testing.assert_array_equal(next(iter(same))["image"], first["image"])
    assert same.digest() == source.digest() != other.digest()


def test_synthetic_shapes_can_be_given() -> None:
    specs = [InputSpec("ids", np.dtype(np.int64), ("b", "t")), InputSpec("more", np.dtype(np.int64), ("b", "t"))]
    (sample,) = open_source(inputs=specs, samples=1, shapes={"ids": (2, 9)})
    assert sample["more"].shape == (2, 9)
    fails("--shape idz: the model has no such input; it takes ids, more", "synthetic", specs, shapes={"idz": (1,)})
    fails(r"--shape x=2,4: the model takes float32 \[batch, 3\]", "synthetic", shapes={"x": (2, 4)})


@given(height=st.integers(1, 40), width=st.integers(1, 40), channels=st.sampled_from([1, 2, 3]))
def test_synthetic_pictures_of_any_size(height: int, width: int, channels: int) -> None:
    spec = InputSpec("image", F32, (1, channels, height, width))
    (sample,) = open_source(inputs=[spec], samples=1)
    assert sample["image"].shape == (1, channels, height, width)


def test_what_a_model_says_of_its_inputs() -> None:
    ids, mask = input_specs(encoder(), {"mask"})
    assert (ids.name, ids.dtype, ids.shape, ids.below, ids.mask) == ("ids", np.int64, ("batch", 5), 7, False)
    assert mask.mask
    assert mask.below is None
    text = "(int32[n] i) => (float[n, 3] y) { j = Cast<to = 7>(i) k = Identity(j) y = Gather(t, k) }"
    held = model(text, t=np.ones((2, 3), np.float32))
    assert input_specs(held)[0].below == 2


def test_samples_of_the_other_byte_order_are_converted(tmp_path: Path) -> None:
    values = np.arange(3, dtype=np.float32)[None]
    np.savez(tmp_path / "a.npz", x=values.astype(">f4"))
    (sample,) = open_source(tmp_path, inputs=[X])
    assert sample["x"].dtype == np.dtype("=f4")
    np.testing.assert_array_equal(sample["x"], values)


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """Its arrays are never read: what loads them is taken away."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = repr({"descr": "<f4", "fortran_order": False, "shape": (1, 2**22)}).encode()
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(2**24))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "load", None)
        fails(r"has shape \[1, 4194304\], the model takes float32", tmp_path)


def test_a_folder_with_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff\xfe.npz")
    np.savez(path, x=np.ones((1, 3), np.float32))
    found = open_source(tmp_path, inputs=[X])
    assert len(found.digest()) == 64
    np.testing.assert_array_equal(next(iter(found))["x"], np.ones((1, 3)))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_out_of_range(seed: int) -> None:
    fails("give a whole number from 0 to", "synthetic", seed=seed)


def test_synthetic_samples_larger_than_memory() -> None:
    fails("does not fit memory", "synthetic", shapes={"x": (10**12, 3)})
