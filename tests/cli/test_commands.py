from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxptq.cli import main
from onnxptq.report.data import Report
from tests.cli.conftest import Run, listing, quick

ROOT = Path(__file__).parents[2]


def command(*argv: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A true process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    return subprocess.run(
        [sys.executable, *argv], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


class TestQuantize:
    def test_other_names_of_the_samples(self, run: Run, folder: Path) -> None:
        assert run("quantize", "vision.onnx", "--data", "synthetic", "--limit", "3", "--recipe", "rtn").code == 0
        first = (folder / "vision.w8a8.onnx").read_bytes()
        assert run("quantize", "vision.onnx", "--calib", "synthetic", "--samples", "3", "--recipe", "rtn").code == 0
        assert (folder / "vision.w8a8.onnx").read_bytes() == first

    def test_default_output_and_summary(self, run: Run, folder: Path) -> None:
        done = run(*quick("--bits", "w6a6", "-v"))
        assert done.code == 0
        assert listing(folder).keys() == {"vision.onnx", "vision.w6a6.onnx"}
        assert "vision.onnx -> vision.w6a6.onnx" in done.out
        answer = done.out.splitlines()[-5:]
        assert [line.split()[0] for line in answer] == ["file", "size", "accuracy", "speed", "next"]
        assert "masks" in done.out
        assert re.search(r"size +\d", done.out)
        assert "synthetic" in done.err
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "vision.w6a6.onnx"), providers=["CPUExecutionProvider"])
        assert session.run(None, {"image": np.zeros((1, 3, 16, 16), np.float32)})[0].shape == (1, 1, 8, 8)

    def test_json_is_one_object_and_words_go_to_stderr(self, run: Run, folder: Path) -> None:
        done = run(*quick("--json", "-o", "out.onnx"))
        report = Report.from_json(json.loads(done.out))
        assert (report.bits, report.recipe, report.format, report.output_file) == (
            "w8a8",
            "minmax",
            "native",
            "out.onnx",
        )
        assert report.sizes.after > 0
        assert report.sites
        assert report.layers
        assert report.outputs["masks"].agreement is not None
        assert re.search("times (smaller|larger)", done.err)

    def test_report_is_a_page(self, run: Run, folder: Path) -> None:
        assert run(*quick("--report", "r.html")).code == 0
        page = (folder / "r.html").read_text()
        HTMLParser().feed(page)
        assert "vision.w8a8.onnx" in page
        assert page.count("<svg") > 10

    def test_plan_out_and_in_give_the_same_bytes(self, run: Run, folder: Path) -> None:
        assert run(*quick("--plan-out", "plan.json", "-o", "a.onnx")).code == 0
        assert run(*quick("--plan-in", "plan.json", "--plan-out", "again.json", "-o", "b.onnx")).code == 0
        assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()
        assert (folder / "plan.json").read_bytes() == (folder / "again.json").read_bytes()

    @pytest.mark.parametrize("made", [("--target", "web"), ("--format", "qdq"), ("--bits", "w4a6")])
    def test_a_plan_alone_says_everything(self, run: Run, folder: Path, made: tuple[str, str]) -> None:
        """Recipe, passes, bits, target and format come from it, and so does the name of the file."""
        assert run(*quick("--plan-out", "plan.json", *made)).code == 0
        (first,) = (path for path in folder.glob("*.onnx") if path.name != "vision.onnx")
        content = first.read_bytes()
        first.unlink()
        assert run("quantize", "vision.onnx", "--plan-in", "plan.json", "--samples", "2", "--threads", "1").code == 0
        assert first.read_bytes() == content

    @pytest.mark.parametrize("form", ["portable", "qdq"])
    def test_formats(self, run: Run, folder: Path, form: str) -> None:
        assert run(*quick("--format", form)).code == 0
        assert {node.domain for node in onnx.load(folder / "vision.w8a8.onnx").graph.node} == {""}

    def test_codes_are_searched_that_the_format_can_say(self, run: Run, folder: Path) -> None:
        auto = quick("--format", "qdq", "--recipe", "auto", "--bits", "w4a4")
        said, warned = run(*auto), run(*auto, "--set", "codes=any")
        assert (said.code, warned.code) == (0, 0)
        assert "stand in" not in said.err
        assert "stand in" in warned.err
        assert run(*quick("--format", "qdq")).code == 0, "a recipe without such a switch"

    def test_two_runs_and_any_number_of_threads_give_the_same_bytes(self, run: Run, folder: Path) -> None:
        for name, threads in (("a", 1), ("b", 1), ("c", 2)):
            assert run(*quick("--recipe", "omse", "--threads", str(threads), "-o", f"{name}.onnx")).code == 0
        first, second, third = ((folder / f"{name}.onnx").read_bytes() for name in "abc")
        assert first == second
        assert first == third

    def test_real_samples_are_not_warned_of(self, run: Run, folder: Path) -> None:
        (folder / "calib").mkdir()
        for i in range(6):
            np.savez(
                folder / "calib" / f"{i}.npz",
                image=np.random.default_rng(i).normal(size=(1, 3, 16, 16)).astype(np.float32),
            )
        done = run(*quick("--calib", "calib", "--samples", "6", "-v"))
        assert done.code == 0
        assert "synthetic" not in done.err
        assert "1 to measure" in done.out

    def test_include_and_exclude(self, run: Run, folder: Path) -> None:
        plain = json.loads(run(*quick("--json")).out)
        more = json.loads(run(*quick("--json", "--include", "^patch:")).out)
        fewer = json.loads(run(*quick("--json", "--exclude", "^second:")).out)
        keys = [{site["key"] for site in data["sites"]} for data in (plain, more, fewer)]
        assert keys[1] - keys[0] == {"patch:weight", "patch:conv_input"}
        assert {key.partition(":")[0] for key in keys[0] - keys[2]} == {"second"}

    def test_killed_run_goes_on_where_it_was(self, run: Run, folder: Path) -> None:
        assert run(*quick("-o", "whole.onnx")).code == 0
        killer = (
            "import os, signal, sys\n"
            "from onnxptq.calibration.checkpoint import Checkpoint\n"
            "save = Checkpoint.save\n"
            "def saved(self, *state):\n"
            "    save(self, *state)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "Checkpoint.save, Checkpoint.due = saved, lambda self: True\n"
            "from onnxptq.cli import main\n"
            "main(sys.argv[1:])\n"
        )
        argv = [str(word) for word in quick("-o", "out.onnx")]
        assert command("-c", killer, *argv, cwd=folder).returncode == -signal.SIGKILL
        assert (folder / "out.onnx.resume").is_dir()
        assert not (folder / "out.onnx").exists()
        other = run(*quick("-o", "out.onnx", "--resume", "--bits", "w4a4"))
        assert other.code == 2
        assert "changed since the interrupted run" in other.err
        assert (folder / "out.onnx.resume").is_dir()
        assert run(*quick("-o", "out.onnx", "--resume")).code == 0
        assert (folder / "out.onnx").read_bytes() == (folder / "whole.onnx").read_bytes()
        assert not (folder / "out.onnx.resume").exists()


class TestInspect:
    def test_structure_and_sites(self, run: Run, folder: Path) -> None:
        done = run("inspect", "vision.onnx", "--recipe", "minmax", "--bits", "w4a8")
        assert (done.code, done.err) == (0, "")
        assert "6 linears, 2 convolutions, 1 attentions" in done.out
        assert re.search(r"softmax +decoder|softmax +visual", done.out)
        assert re.search(r"first:weight .* 4 +minmax +channel", done.out)
        assert re.search(r"patch:weight .* float +32", done.out)

    def test_cost(self, run: Run, folder: Path) -> None:
        done = run("inspect", "vision.onnx", "--recipe", "minmax", "--bits", "w4a4", "--cost", "--json")
        cost = json.loads(done.out)["cost"]
        counts = {(p["kind"], p["left"]): p["count"] for p in cost["products"]}
        tokens, width, inner = 64, 16, 32
        assert counts["linear", 4] == tokens * (4 * width * width + 2 * width * inner)
        assert counts["convolution", 32] == tokens * 3 * 4 * width + tokens * width
        assert counts["scores", 4] == counts["attention x values", 4] == tokens * tokens * width
        assert {p["share"] for p in cost["products"]} == {1 / 8, 1.0}
        assert {s["kind"]: s["elements"] for s in cost["stored"]}["weights"] == 4 * width * width + 2 * width * inner

    def test_distributions(self, run: Run, folder: Path) -> None:
        done = run("inspect", "vision.onnx", "--calib", "synthetic", "--samples", "2", "--json")
        entries = {e["tensor"]: e for e in json.loads(done.out)["distributions"]}
        assert entries["a"]["low"] >= 0
        assert entries["a"]["high"] <= 1
        assert all(e["low"] <= e["p0.01"] <= e["p99.99"] <= e["high"] for e in entries.values())
        assert "█" in done.err
        assert "synthetic samples" in done.err

    def test_figures(self, run: Run, folder: Path) -> None:
        done = run(
            "inspect", "vision.onnx", "--calib", "synthetic", "--samples", "2", "--figures", "figures.html", "--json"
        )
        figures = json.loads(done.out)["figures"]
        assert [0 < share < 1 for share in figures["above 0.01"].values()] == [True]
        assert "Softmax outputs" in (folder / figures["path"]).read_text()
        refused = run("inspect", "vision.onnx", "--figures", "figures.html")
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert "--calib is missing" in refused.err


class TestCompare:
    def test_outputs_and_layers(self, run: Run, folder: Path) -> None:
        run(*quick("--bits", "w4a4", "-o", "q.onnx"))
        done = run("compare", "vision.onnx", "q.onnx", "--samples", "2", "--layers")
        assert done.code == 0
        assert re.search(r"masks +\d+\.\d", done.out)
        assert re.search(r"h3 +\d+\.\d", done.out)
        data = json.loads(run("compare", "vision.onnx", "q.onnx", "--samples", "2", "--json").out)
        assert 0 < data["outputs"]["masks"]["sqnr"] < 60
        assert 0 < data["outputs"]["masks"]["agreement"] <= 1

    def test_a_model_with_itself_is_exact(self, run: Run, folder: Path) -> None:
        data = json.loads(run("compare", "vision.onnx", "vision.onnx", "--samples", "1", "--json").out)
        assert data["outputs"]["masks"]["sqnr"] == "inf"


def test_bench(run: Run, folder: Path) -> None:
    run(*quick("-o", "q.onnx"))
    done = run("bench", "vision.onnx", "q.onnx", "--runs", "3", "--threads", "1", "--executor", "function", "--json")
    first, second = json.loads(done.out)["models"]
    assert (first["faster"], first["bytes"]) == (1.0, (folder / "vision.onnx").stat().st_size)
    assert second["ms"] > 0
    assert second["quartiles"][0] <= second["faster"] <= second["quartiles"][1]
    assert 10**7 < second["peak_bytes"] < 10**10
    assert "times faster" in done.err


def test_library(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxptq.ops import library

    monkeypatch.setattr(library, "path", lambda: None)
    done = run("library")
    assert (done.code, done.out) == (2, "")
    assert "no native library" in done.err
    monkeypatch.setattr(library, "path", lambda: Path("/lib/libonnxptq_ops.so"))
    monkeypatch.setattr(library, "isa", lambda: "avx2")
    monkeypatch.setattr(library, "isas", lambda: ["portable", "avx2"])
    assert run("library").out == f"{Path('/lib/libonnxptq_ops.so')}\n"
    assert run("library", "--isa").out == "avx2\n"
    assert json.loads(run("library", "--json").out)["isas"] == ["portable", "avx2"]


class TestEnds:
    def test_our_bug_is_one_line_and_exit_1(self, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("division\nby zero")

        monkeypatch.setattr("onnxptq.ops.library.path", broken)
        done = run("library")
        assert done.code == 1
        assert done.err == (
            "onnxptq: internal error: ZeroDivisionError: division by zero (please report it; ONNXPTQ_DEBUG=1 shows "
            "where it happened)\n"
        )
        monkeypatch.setenv("ONNXPTQ_DEBUG", "1")
        with pytest.raises(ZeroDivisionError):
            main(["library"])

    def test_interrupted(self, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("onnxptq.ops.library.path", interrupted)
        assert run("library").code == 130

    def test_closed_pipe_is_quiet(self, folder: Path) -> None:
        script = f"{sys.executable} -m onnxptq inspect vision.onnx | true; echo ${{PIPESTATUS[0]}}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        assert done.stdout.strip() in ("141", "0")

    def test_exit_codes_of_a_true_process(self, folder: Path) -> None:
        done = command("-m", "onnxptq", "quantize", "none.onnx", cwd=folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "onnxptq: none.onnx: no such file; did you mean vision.onnx?\n"
        done = command("-m", "onnxptq", "--version", cwd=folder)
        assert (done.returncode, done.stderr) == (0, "")

    def test_onnxruntime_says_nothing_of_its_own(self, folder: Path) -> None:
        model = onnx.load(folder / "vision.onnx")
        model.graph.node[0].op_type = "Convolve"
        onnx.save(model, folder / "odd.onnx")
        done = command("-m", "onnxptq", "quantize", "odd.onnx", cwd=folder)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1

    def test_terminal_without_unicode(self, folder: Path) -> None:
        argv = ("-m", "onnxptq", "inspect", "vision.onnx", "--calib", "synthetic", "--samples", "1")
        assert command(*argv, cwd=folder, PYTHONIOENCODING="ascii").returncode == 0

    def test_help_loads_nothing_heavy(self, folder: Path) -> None:
        code = (
            "import sys; from onnxptq.cli import main; main(['quantize', '--help'])\n"
            "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'torch', 'PIL', 'rich') if m in sys.modules])"
        )
        assert command("-c", code, cwd=folder).stdout.splitlines()[-1] == "[]"


def test_demo(run: Run, folder: Path) -> None:
    done = run(
        "demo",
        "-o",
        "d",
        "--bits",
        "w8a8",
        "--recipe",
        "minmax",
        "--samples",
        "2",
        "--limit",
        "2",
        "--threads",
        "1",
        "--json",
    )
    assert done.code == 0, done.err
    original, quantized = json.loads(done.out)["models"]
    assert (original["model"], quantized["model"]) == ("original", "w8a8")
    assert quantized["bytes"] < original["bytes"]
    assert quantized["agreement"] > 80
    made = {f"sam-mini-{part}.w8a8.{end}" for part in ("encoder", "decoder") for end in ("onnx", "html")}
    assert {p.name for p in (folder / "d").iterdir()} == made | {"index.html", "masks"}
    page = (folder / "d" / "index.html").read_text()
    assert "sam-mini-encoder.w8a8.html" in page
    assert page.count("<img") == len(list((folder / "d" / "masks").glob("*.png"))) == 2


def test_demo_folder_that_cannot_be_made(run: Run, folder: Path) -> None:
    done = run("demo", "-o", "vision.onnx")
    assert (done.code, done.err) == (2, "onnxptq: vision.onnx: cannot be made a folder: File exists\n")
