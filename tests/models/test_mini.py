"""The mini models: torch and onnxruntime agree, whatever the exporter, and files are reused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from onnxptq.errors import InputError  # noqa: E402
from onnxptq.models import mini  # noqa: E402
from onnxptq.models.export import Exported, largest_error  # noqa: E402
from onnxptq.running.sessions import session  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mini")


def run(done: Exported) -> dict[str, np.ndarray]:
    names = list(done.expected)
    return dict(zip(names, session(done.path, executor="function", threads=1).run(names, done.feeds), strict=True))


@pytest.mark.parametrize(("name", "batch"), list(itertools.product(mini.MINIS, (False, True))))
def test_torchscript_equals_torch(name: str, batch: bool, folder: Path) -> None:
    done = mini.write(name, folder / f"{name}-{batch}.onnx", dynamic_batch=batch)
    assert largest_error(done, run(done)) < 5e-5
    onnx.checker.check_model(str(done.path), full_check=True)


@pytest.mark.parametrize("name", ["bert", "sam-encoder", "cnn"])
def test_dynamo_equals_torch(name: str, folder: Path) -> None:
    done = mini.write(name, folder / f"{name}-dynamo.onnx", exporter="dynamo", dynamic_batch=name == "bert")
    assert largest_error(done, run(done)) < 5e-5


def test_seeds_give_different_weights(folder: Path) -> None:
    one, other = (mini.write("cnn", folder / f"seed{seed}.onnx", seed=seed) for seed in (0, 1))
    outputs = [session(m.path, threads=1).run(None, one.feeds)[0] for m in (one, other)]
    assert not np.allclose(*outputs, atol=1e-2)


def test_nothing_is_left_at_its_neutral_value() -> None:
    encoder = mini.model("sam-encoder")
    tables = [p for name, p in encoder.named_parameters() if "pos" in name]
    assert len(tables) == 7
    assert all(float(p.detach().std()) > 0.3 for p in tables)


def test_cached_files_are_reused(folder: Path) -> None:
    first = mini.cached("bert", folder)
    stamp = first.path.stat().st_mtime_ns
    again = mini.cached("bert", folder)
    assert again.path.stat().st_mtime_ns == stamp
    assert list(again.feeds) == ["input_ids", "attention_mask"]
    np.testing.assert_array_equal(again.expected["hidden"], first.expected["hidden"])


def test_samples_are_seeded_and_differ() -> None:
    one, two = mini.samples("lavt", 2, seed=3)
    again = mini.samples("lavt", 1, seed=3)[0]
    np.testing.assert_array_equal(one["image"], again["image"])
    assert not np.array_equal(one["input_ids"], two["input_ids"])
    assert (one["input_ids"][one["attention_mask"] == 0] == 0).all()


def test_unknown_name_and_exporter(folder: Path) -> None:
    with pytest.raises(InputError, match="choose sam-encoder"):
        mini.model("resnet")
    with pytest.raises(InputError, match="torchscript or dynamo"):
        mini.write("cnn", folder / "x.onnx", exporter="jit")  # type: ignore[arg-type]
