from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxptq.errors import ArtifactError, InputError, one_line
from onnxptq.running.runner import Runner, Spool, run
from onnxptq.running.sessions import session


def double(dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Shape", ["x"], ["s"])],
        "g",
        [helper.make_tensor_value_info("x", dtype, ["N", 2])],
        [
            helper.make_tensor_value_info("y", dtype, ["N", 2]),
            helper.make_tensor_value_info("s", TensorProto.INT64, [2]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def samples(count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": np.full((i + 1, 2), i, np.float32)} for i in range(count)]


def test_outputs_come_one_sample_at_a_time() -> None:
    asked: list[int] = []

    def counted():  # type: ignore[no-untyped-def]
        for i, sample in enumerate(samples(3)):
            asked.append(i)
            yield sample

    outputs = run(double(), counted())
    first = next(outputs)
    assert asked == [0]
    assert first["s"].tolist() == [1, 2]
    assert [o["y"][0, 0] for o in outputs] == [2.0, 4.0]


@pytest.mark.parametrize("source", ["proto", "bytes", "path"])
def test_every_kind_of_model(source: str, tmp_path: Path) -> None:
    model: onnx.ModelProto | bytes | Path = double()
    if source == "bytes":
        model = double().SerializeToString()
    if source == "path":
        model = tmp_path / "m.onnx"
        onnx.save(double(), model)
    assert next(run(model, samples(1)))["y"].shape == (1, 2)


def test_a_session_keeps_one_block_of_memory_for_all_runs() -> None:
    assert not session(double()).get_session_options().enable_mem_pattern


def test_floats_are_converted_to_what_the_model_takes() -> None:
    (outputs,) = run(double(TensorProto.FLOAT16), samples(2)[1:])
    assert outputs["y"].dtype == np.float16


def test_errors_name_the_model_and_are_of_the_asked_kind() -> None:
    with pytest.raises(ArtifactError, match=r"^m: onnxruntime does not load it: "):
        Runner(b"not a model", name="m")
    with pytest.raises(InputError, match=r"^m: onnxruntime fails to run it: .*rank"):
        Runner(double(), name="m", error=InputError)({"x": np.zeros(3, np.float32)})
    with pytest.raises(ArtifactError, match="its input 'x' is not in the samples, which have z"):
        Runner(double(), name="m")({"z": np.zeros(3, np.float32)})


def test_spool_keeps_everything_on_disk_and_cleans_up() -> None:
    with Spool() as spool:
        spool.fill(
            [
                {"y/a": np.arange(3), "t": np.array(["x"], object), "b": np.array(True)},
                {"y/a": np.zeros((0, 2), np.float16)},
            ]
        )
        first, second = spool
        assert (first["y/a"].tolist(), list(first), bool(first["b"])) == ([0, 1, 2], ["y/a", "b"], True)
        assert second["y/a"].dtype == np.float16
        assert len(spool) == 2
        assert len(list(spool)) == 2
        folder = Path(spool._folder.name)
        assert len(list(folder.iterdir())) == 3
    assert not folder.exists()


def test_temporary_files_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, array: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with (
        Spool() as spool,
        pytest.raises(InputError, match=r"temporary files do not fit \(No space left on device\); set TMPDIR"),
    ):
        spool.fill([{"y": np.zeros(3)}])


def test_one_line() -> None:
    assert one_line(ValueError("\n  first\nsecond")) == "first"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 1000))) == 300
