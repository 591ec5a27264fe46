from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.cli.conftest import Run, listing, quick, vision_model

Refuses = Callable[..., str]


class TestModel:
    def test_missing_file(self, refuses: Refuses) -> None:
        assert refuses("quantize", "vison.onnx") == "vison.onnx: no such file; did you mean vision.onnx?"

    def test_directory(self, refuses: Refuses, folder: Path) -> None:
        (folder / "d").mkdir()
        assert "is a folder" in refuses("quantize", "d")

    def test_text_file(self, refuses: Refuses, folder: Path) -> None:
        (folder / "notes.onnx").write_text("not a model\n")
        assert "notes.onnx" in refuses("quantize", "notes.onnx")

    def test_empty_file(self, refuses: Refuses, folder: Path) -> None:
        (folder / "e.onnx").write_bytes(b"")
        assert "e.onnx" in refuses("quantize", "e.onnx")

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    def test_truncated(self, refuses: Refuses, folder: Path, share: float) -> None:
        whole = (folder / "vision.onnx").read_bytes()
        (folder / "cut.onnx").write_bytes(whole[: int(share * len(whole))])
        assert refuses("quantize", "cut.onnx").startswith("cut.onnx")

    def test_missing_external_data(self, refuses: Refuses, folder: Path) -> None:
        onnx.save(
            vision_model(), folder / "big.onnx", save_as_external_data=True, location="big.data", size_threshold=0
        )
        (folder / "big.data").unlink()
        assert "big.data" in refuses("quantize", "big.onnx")

    def test_truncated_external_data(self, refuses: Refuses, folder: Path) -> None:
        onnx.save(
            vision_model(), folder / "big.onnx", save_as_external_data=True, location="big.data", size_threshold=0
        )
        data = folder / "big.data"
        data.write_bytes(data.read_bytes()[:100])
        assert "big.data" in refuses("quantize", "big.onnx")

    def test_op_onnxruntime_does_not_know(self, refuses: Refuses, folder: Path) -> None:
        model = vision_model()
        model.graph.node[0].op_type = "Convolve"
        onnx.save(model, folder / "odd.onnx")
        assert "Convolve" in refuses("quantize", "odd.onnx")

    def test_op_of_an_unknown_domain(self, refuses: Refuses, folder: Path) -> None:
        model = vision_model()
        model.graph.node[-1].domain = "com.example"
        model.opset_import.append(helper.make_opsetid("com.example", 1))
        onnx.save(model, folder / "odd.onnx")
        assert "odd.onnx" in refuses("quantize", "odd.onnx")

    def test_nothing_to_quantize(self, refuses: Refuses, folder: Path) -> None:
        graph = helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        )
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "relu.onnx"
        )
        assert "no site to quantize" in refuses("quantize", "relu.onnx")

    def test_an_op_that_onnxruntime_lacks(self, refuses: Refuses, folder: Path) -> None:
        nodes = [
            ("Acosh", ["x"], ["e"], {}),
            ("Cast", ["e"], ["f"], {"to": TensorProto.FLOAT}),
            ("MatMul", ["f", "w"], ["y"], {}),
        ]
        graph = helper.make_graph(
            [helper.make_node(op, inputs, outputs, **attributes) for op, inputs, outputs, attributes in nodes],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [1, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
            [helper.make_tensor("w", TensorProto.FLOAT, [4, 4], np.eye(4).ravel())],
        )
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "acosh.onnx"
        )
        assert "onnxruntime does not load the model, read as opset 21: " in refuses("quantize", "acosh.onnx")

    def test_everything_excluded(self, refuses: Refuses) -> None:
        assert "no site to quantize" in refuses(*quick("--exclude", "."))


class TestOptions:
    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (("quantise", "m"), "unknown command 'quantise'; did you mean 'quantize'?"),
            (("quantize", "vision.onnx", "--recipe", "omsee"), "unknown recipe 'omsee'; did you mean 'omse'?"),
            (("quantize", "vision.onnx", "--recipe", "x.toml"), "x.toml"),
            (("quantize", "vision.onnx", "--bits", "w9a8"), "out of range; use 2 to 8"),
            (("quantize", "vision.onnx", "--bits", "w1a8"), "out of range"),
            (("quantize", "vision.onnx", "--bits", "8"), "write wXaY"),
            (("quantize", "vision.onnx", "--bits", "w32a32"), "nothing to quantize"),
            (("quantize", "vision.onnx", "--format", "qqd"), "unknown value 'qqd'; did you mean 'qdq'?"),
            (("quantize", "vision.onnx", "--preprocess", "imgnet"), "did you mean 'imagenet'?"),
            (("quantize", "vision.onnx", "--recipes", "omse"), "unknown option '--recipes'; did you mean '--recipe'?"),
            (("quantize", "vision.onnx", "extra"), "unexpected argument 'extra'"),
            (("quantize",), "required: MODEL"),
            (("quantize", "vision.onnx", "--threads", "100000"), "'100000' is not a whole number of 1 to"),
            (("quantize", "vision.onnx", "--seed", "-1"), "'-1' is not a whole number of 0 or more"),
            (("quantize", "vision.onnx", "--seed", "9" * 5000), "is not a whole number of 0 to 4294967295"),
            (("quantize", "vision.onnx", "--samples", "9" * 5000), "is not a whole number of 1 to 2147483647"),
            (("quantize", "vision.onnx", "--memory-limit", "9" * 5000), "write for example 4GB"),
            (("quantize", "vision.onnx", "--shape", "image=" + "9" * 5000), "write NAME=2,3,4"),
            (("quantize", "vision.onnx", "--set", "weights.symetric=true"), "did you mean 'symmetric'?"),
            (("quantize", "vision.onnx", "--set", "activations.nope=3"), "no option 'nope'"),
            (("quantize", "vision.onnx", "--samples", "0"), "'0' is not a whole number of 1 or more"),
            (("quantize", "vision.onnx", "--memory-limit", "lots"), "write for example 4GB"),
            (("quantize", "vision.onnx", "--exclude", "("), "not a regular expression"),
            (("quantize", "vision.onnx", "--shape", "image=1,x"), "write NAME=2,3,4"),
            (("quantize", "vision.onnx", "--set", "a"), "write NAME=VALUE"),
            (("quantize", "vision.onnx", "--set", "granularty=x"), "no such setting"),
            (("quantize", "vision.onnx", "--role", "vision=x"), "visual"),
            (("quantize", "vision.onnx", "--mask", "nope"), "nope"),
            (("quantize", "vision.onnx", "--shape", "imag=1,3,16,16"), "image"),
            (("quantize", "vision.onnx", "--shape", "image=1,3,32,32"), "image"),
            (("quantize", "vision.onnx", "--plan-in", "none.json"), "none.json: cannot read the plan"),
            (("compare", "vision.onnx", "none.onnx"), "none.onnx: no such file"),
            (("bench", "vision.onnx", "none.onnx"), "none.onnx: no such file"),
            (("inspect", "none.onnx"), "none.onnx: no such file"),
        ],
    )
    def test_one_line(self, refuses: Refuses, argv: tuple[str, ...], said: str) -> None:
        assert said in refuses(*argv)

    def test_exclude_that_matches_nothing_is_a_warning(self, run: Run, folder: Path) -> None:
        done = run(*quick("--exclude", "nowhere"))
        assert done.code == 0
        warnings = [line for line in done.err.splitlines() if "nowhere" in line]
        assert warnings == ["onnxptq: warning: pattern 'nowhere' matches no site; `onnxptq inspect` lists them"]
        assert (folder / "vision.w8a8.onnx").is_file()

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (("--bits", "w4a4"), "--bits w4a4: plan.json was made for w8a8; leave --bits out"),
            (("--bits", "x"), "write wXaY"),
            (("--recipe", "omse"), "--recipe omse: plan.json was made by minmax"),
            (("--exclude", "first"), 'scheme "float" leaves one out'),
            (("--include", "first"), "plan.json says which sites are quantized"),
            (("--set", "weights.symmetric=true"), "plan.json says what is done to each site"),
            (("-o", "plan.json"), "plan.json: is read by this run, and would be overwritten"),
            (("--plan-out", "plan.json"), "plan.json: is read by this run"),
        ],
    )
    def test_what_contradicts_a_plan(
        self, refuses: Refuses, run: Run, folder: Path, more: tuple[str, ...], said: str
    ) -> None:
        assert run(*quick("--plan-out", "plan.json", "-o", "a.onnx")).code == 0
        assert said in refuses("quantize", "vision.onnx", "--plan-in", "plan.json", *more)

    def test_plan_of_another_model(self, refuses: Refuses, run: Run, folder: Path) -> None:
        assert run(*quick("--plan-out", "plan.json")).code == 0
        text = (folder / "plan.json").read_text()
        (folder / "plan.json").write_text(text.replace("project_q", "other"))
        assert "is not in this model" in refuses(*quick("--plan-in", "plan.json"))


class TestSamples:
    def save(self, folder: Path, **arrays: np.ndarray) -> Path:
        (folder / "calib").mkdir()
        np.savez(folder / "calib" / "a.npz", **arrays)  # type: ignore[arg-type]
        return folder / "calib"

    def test_missing(self, refuses: Refuses) -> None:
        assert "calib" in refuses(*quick("--calib", "calib"))

    def test_empty_folder(self, refuses: Refuses, folder: Path) -> None:
        (folder / "calib").mkdir()
        assert "calib" in refuses(*quick("--calib", "calib"))

    def test_wrong_name(self, refuses: Refuses, folder: Path) -> None:
        self.save(folder, pixels=np.zeros((1, 3, 16, 16), np.float32))
        assert "input 'image' is missing" in refuses(*quick("--calib", "calib"))

    def test_wrong_shape(self, refuses: Refuses, folder: Path) -> None:
        self.save(folder, image=np.zeros((1, 3, 8, 8), np.float32))
        assert "shape [1, 3, 8, 8], the model takes float32 [1, 3, 16, 16]" in refuses(*quick("--calib", "calib"))

    def test_wrong_dtype(self, refuses: Refuses, folder: Path) -> None:
        self.save(folder, image=np.zeros((1, 3, 16, 16), np.int64))
        assert "is int64, the model takes float32" in refuses(*quick("--calib", "calib"))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, refuses: Refuses, folder: Path, value: float) -> None:
        array = np.zeros((1, 3, 16, 16), np.float32)
        array[0, 1, 2, 3] = value
        self.save(folder, image=array)
        assert "NaN or infinity" in refuses(*quick("--calib", "calib"))

    def test_bad_sample_after_good_ones(self, refuses: Refuses, folder: Path) -> None:
        path = self.save(folder, image=np.zeros((1, 3, 16, 16), np.float32))
        np.savez(path / "b.npz", image=np.full((1, 3, 16, 16), np.nan, np.float32))
        assert "b.npz" in refuses(*quick("--calib", "calib"))

    def test_corrupt_image(self, refuses: Refuses, folder: Path) -> None:
        (folder / "calib").mkdir()
        Image.new("RGB", (16, 16)).save(folder / "calib" / "a.png")
        (folder / "calib" / "b.png").write_bytes((folder / "calib" / "a.png").read_bytes()[:40])
        assert "b.png" in refuses(*quick("--calib", "calib"))

    def test_corrupt_npz(self, refuses: Refuses, folder: Path) -> None:
        (folder / "calib").mkdir()
        (folder / "calib" / "a.npz").write_bytes(b"PK\x03\x04 no archive")
        assert "a.npz" in refuses(*quick("--calib", "calib"))


class TestOutput:
    @pytest.mark.parametrize("option", ["-o", "--report", "--plan-out"])
    def test_folder_does_not_exist(self, refuses: Refuses, option: str) -> None:
        assert "there is no folder" in refuses(*quick(option, "none/out"))

    @pytest.mark.parametrize("option", ["-o", "--report", "--plan-out"])
    def test_is_a_folder(self, refuses: Refuses, folder: Path, option: str) -> None:
        (folder / "d").mkdir()
        assert "d: is a folder" in refuses(*quick(option, "d"))

    @pytest.mark.parametrize(
        "words",
        [
            ("-o", "x.onnx", "--report", "x.onnx"),
            ("-o", "x.onnx", "--plan-out", "./x.onnx"),
            ("--report", "r", "--plan-out", "r"),
        ],
    )
    def test_two_outputs_of_one_name(self, refuses: Refuses, words: tuple[str, ...]) -> None:
        assert "give another name" in refuses(*quick(*words))

    @pytest.mark.parametrize("option", ["-o", "--report", "--plan-out"])
    def test_is_what_the_model_lies_in(self, refuses: Refuses, folder: Path, option: str) -> None:
        onnx.save(vision_model(), folder / "big.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
        said = refuses("quantize", "big.onnx", "--recipe", "minmax", option, "w.data")
        assert "w.data: is read by this run, and would be overwritten" in said

    @pytest.mark.parametrize(
        "words",
        [
            ("demo", "--recipe", "omsee"),
            ("demo", "--bits", "w9a9"),
            ("table", "coco", "--data", "none.json", "--calib", "synthetic", "--model", "m"),
            ("table", "coco", "--calib", "synthetic"),
            ("table", "sam", "--recipes", "omsee"),
        ],
    )
    def test_no_folder_is_left(self, refuses: Refuses, words: tuple[str, ...]) -> None:
        refuses(*words, "-o", "d/e")

    def test_a_folder_that_is_a_file(self, refuses: Refuses, folder: Path) -> None:
        (folder / "f").write_text("")
        assert "f: cannot be made a folder" in refuses("table", "sam", "-o", "f")
        assert "f: cannot be made a folder" in refuses("demo", "-o", "f")

    def test_is_the_model(self, refuses: Refuses) -> None:
        assert "is the model itself" in refuses(*quick("-o", "./vision.onnx"))

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
    def test_folder_is_not_writable(self, refuses: Refuses, folder: Path) -> None:
        (folder / "d").mkdir(mode=0o500)
        assert "cannot be written: Permission denied" in refuses(*quick("-o", "d/out.onnx"))

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
    def test_place_where_nobody_can_write(self, refuses: Refuses) -> None:
        assert refuses(*quick("-o", "/proc/out.onnx")).startswith("/proc/out.onnx: cannot be written")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
    def test_full_device(self, refuses: Refuses) -> None:
        assert refuses(*quick("-o", "/dev/full")) == "/dev/full: the disk is full; nothing was written"

    def test_disk_full_while_writing(self, refuses: Refuses, folder: Path) -> None:
        resource = pytest.importorskip("resource")
        onnx.save(vision_model(256, inner=1024), folder / "vision.onnx")
        kept = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, kept[1]))
        try:
            assert "vision.w8a8.onnx: cannot be written: File too large" in refuses(*quick())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, kept)

    def test_an_existing_file_stays_when_the_run_fails(self, refuses: Refuses, folder: Path) -> None:
        (folder / "vision.w8a8.onnx").write_bytes(b"old")
        (folder / "calib").mkdir()
        refuses(*quick("--calib", "calib"))
        assert (folder / "vision.w8a8.onnx").read_bytes() == b"old"

    def test_a_folder_in_the_way_of_the_checkpoint_is_left_alone(self, refuses: Refuses, folder: Path) -> None:
        (folder / "vision.w8a8.onnx.resume").mkdir()
        (folder / "vision.w8a8.onnx.resume" / "mine.txt").write_text("precious")
        assert "holds something else" in refuses(*quick())


def test_weights_that_are_not_finite(refuses: Refuses, folder: Path) -> None:
    model = vision_model()
    for tensor in model.graph.initializer:
        if tensor.name == "wq":
            values = numpy_helper.to_array(tensor).copy()
            values[0, 0] = np.nan
            tensor.CopyFrom(numpy_helper.from_array(values, "wq"))
    onnx.save(model, folder / "vision.onnx")
    assert "holds NaN" in refuses(*quick())


def test_listing_sees_files_and_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert listing(tmp_path) == {"a": (tmp_path / "a").stat().st_size}
