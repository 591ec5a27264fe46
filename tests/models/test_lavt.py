"""LAVT: windows, fusion and decoder against plain computations; official checkpoints; export at several sizes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from onnxptq.cli import main  # noqa: E402
from onnxptq.errors import InputError  # noqa: E402
from onnxptq.models import mini  # noqa: E402
from onnxptq.models.export import largest_error  # noqa: E402
from onnxptq.models.lavt.checkpoint import infer, load_lavt  # noqa: E402
from onnxptq.models.lavt.config import LavtConfig  # noqa: E402
from onnxptq.models.lavt.fusion import PixelWordAttention  # noqa: E402
from onnxptq.models.lavt.model import LAVT, random_lavt  # noqa: E402
from onnxptq.models.lavt.swin import PatchMerging, SwinBlock, from_windows, shift_mask, to_windows  # noqa: E402
from onnxptq.models.lavt.to_onnx import export_lavt, sample_inputs  # noqa: E402
from onnxptq.running.sessions import session  # noqa: E402


@pytest.fixture(scope="module")
def model() -> Any:
    torch.set_num_threads(1)
    return mini.model("lavt")


def test_windows_round_trip() -> None:
    x = torch.arange(2 * 6 * 9 * 5).reshape(2, 6, 9, 5)
    windows = to_windows(x, 3)
    assert windows.shape == (12, 9, 5)
    assert torch.equal(windows[1], x[0, :3, 3:6].reshape(9, 5))
    assert torch.equal(from_windows(windows, 3, 6, 9), x)


def test_shift_mask_keeps_parts_of_the_image_apart() -> None:
    """After a cyclic shift by w // 2, tokens may meet only if they were neighbours before it."""
    h, v, w = 8, 12, 4
    rows, cols = torch.meshgrid(torch.arange(h), torch.arange(v), indexing="ij")
    place = torch.stack([rows, cols], -1)[None].roll((-2, -2), (1, 2))
    windows = to_windows(place, w)
    near = (windows[:, :, None] - windows[:, None]).abs().amax(-1) < w
    assert torch.equal(shift_mask(h, v, w) == 0, near)
    assert set(shift_mask(h, v, w).unique().tolist()) == {0.0, -100.0}


@torch.no_grad()
def test_a_shifted_padded_block_by_hand() -> None:
    torch.manual_seed(0)
    block = SwinBlock(8, 2, 4, True, 2.0, 6, False).eval()
    x = torch.randn(1, 36, 8)
    y = block.norm1(x).reshape(1, 6, 6, 8)
    padded = torch.zeros(1, 8, 8, 8)
    padded[:, :6, :6] = y
    index = (torch.arange(8) + 2) % 8
    rolled = padded[:, index][:, :, index]
    want = torch.zeros(1, 8, 8, 8)
    mask = shift_mask(8, 8, 4)
    for number, (i, j) in enumerate((i, j) for i in (0, 4) for j in (0, 4)):
        part = rolled[:, i : i + 4, j : j + 4].reshape(1, 16, 8)
        q, k, v = block.attn.qkv(part).reshape(16, 3, 2, 4).permute(1, 2, 0, 3)
        bias = block.attn.relative_position_bias_table[block.attn.relative_position_index].permute(2, 0, 1)
        scores = q @ k.transpose(1, 2) / 2 + bias + mask[number]
        out = (scores.softmax(-1) @ v).transpose(0, 1).reshape(16, 8)
        want[0, i : i + 4, j : j + 4] = block.attn.proj(out).reshape(4, 4, 8)
    back = (torch.arange(8) - 2) % 8
    want = want[:, back][:, :, back][:, :6, :6].reshape(1, 36, 8)
    want = x + want
    torch.testing.assert_close(block(x, 6, 6), want + block.mlp(block.norm2(want)), atol=1e-6, rtol=1e-5)


def test_windows_of_small_maps() -> None:
    """The release pads a map smaller than the window and shifts it; fitted windows do neither."""
    official, fitted = SwinBlock(8, 2, 6, True, 2.0, 4, False), SwinBlock(8, 2, 6, True, 2.0, 4, True)
    assert official.attn.relative_position_bias_table.shape[0] == 121
    assert official.shift_mask is not None
    assert fitted.attn.relative_position_bias_table.shape[0] == 49
    assert fitted.shift_mask is None


@torch.no_grad()
def test_merging_takes_the_four_sub_grids_in_swins_order() -> None:
    merge = PatchMerging(1)
    merge.norm = torch.nn.Identity()
    merge.reduction = torch.nn.Identity()
    grid = torch.arange(15.0).reshape(1, 15, 1)
    out = merge(grid, 3, 5)
    assert out.shape == (1, 6, 4)
    assert out[0, 0].tolist() == [0, 5, 1, 6]
    assert out[0, 5].tolist() == [14, 0, 0, 0], "odd sizes are padded by one"


@torch.no_grad()
def test_masked_words_do_not_matter() -> None:
    torch.manual_seed(0)
    attention = PixelWordAttention(8, 6, 2).eval()
    pixels, words = torch.randn(1, 8, 10), torch.randn(1, 6, 5)
    mask = torch.tensor([[[1.0, 1, 1, 0, 0]]])
    other = words.clone()
    other[:, :, 3:] = 9.0
    torch.testing.assert_close(attention(pixels, words, mask), attention(pixels, other, mask))
    torch.testing.assert_close(
        attention(pixels, words, mask), attention(pixels, words[:, :, :3], mask[:, :, :3]), atol=1e-5, rtol=1e-5
    )


def official(model: Any) -> dict[str, Any]:
    """What the release's training saves: BERT apart, with its pooler and position ids, and training state beside."""
    state = model.state_dict()
    text = {k.removeprefix("text_encoder."): v for k, v in state.items() if k.startswith("text_encoder.")}
    text |= {"pooler.dense.weight": torch.zeros(2, 2), "embeddings.position_ids": torch.arange(16)[None]}
    rest = {k: v for k, v in state.items() if not k.startswith("text_encoder.")}
    return {
        "model": rest,
        "bert_model": text,
        "optimizer": {"step": 3},
        "epoch": 39,
        "args": argparse.Namespace(lr=1e-4),
    }


@pytest.mark.parametrize("layout", ["lavt", "lavt_one", "parallel"])
def test_official_layouts(model: Any, tmp_path: Path, layout: str) -> None:
    state = model.state_dict()
    held = {
        "lavt": official(model),
        "lavt_one": {"model": state},
        "parallel": {"model": {f"module.{k}": v for k, v in state.items()}},
    }
    torch.save(held[layout], tmp_path / "c.pth")
    again = load_lavt(tmp_path / "c.pth", image_size=64, max_tokens=10, text_heads=4)
    inputs = sample_inputs(model, 2)
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs), model(**inputs))


def test_the_released_sizes_are_read_off_the_weights() -> None:
    with torch.device("meta"):
        state = LAVT(LavtConfig()).state_dict()
    config = infer(state, image_size=480)
    assert (config.embed_dim, config.depths, config.num_heads, config.window) == (
        128,
        (2, 2, 18, 2),
        (4, 8, 16, 32),
        12,
    )
    assert (config.fit_windows, config.absolute_pos, config.decoder_width, config.mlp_ratio) == (
        False,
        False,
        512,
        (4.0,) * 4,
    )
    text = {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    }
    assert config.text == text | {"max_position_embeddings": 512}


def test_names_are_the_releases() -> None:
    with torch.device("meta"):
        names = set(LAVT(LavtConfig()).state_dict())
    for name in (
        "backbone.patch_embed.norm.weight",
        "backbone.layers.2.blocks.17.attn.relative_position_index",
        "backbone.layers.0.downsample.reduction.weight",
        "backbone.layers.3.fusion.image_lang_att.f_query.0.weight",
        "backbone.layers.1.fusion.vis_project.0.bias",
        "backbone.layers.1.fusion.project_mm.0.weight",
        "backbone.layers.1.res_gate.2.weight",
        "backbone.norm3.weight",
        "classifier.bn2_2.running_var",
        "classifier.conv1_1.bias",
        "text_encoder.encoder.layer.11.output.LayerNorm.weight",
    ):
        assert name in names
    assert "backbone.layers.3.downsample.norm.weight" not in names
    assert "backbone.layers.0.downsample.reduction.bias" not in names


@pytest.mark.parametrize("size", [64, 100])
def test_files_equal_torch_at_any_size(model: Any, tmp_path: Path, size: int) -> None:
    torch.save({"model": model.state_dict()}, tmp_path / "c.pth")
    done = export_lavt(load_lavt(tmp_path / "c.pth", image_size=size, max_tokens=10, text_heads=4), tmp_path / "l.onnx")
    logits = session(done.path, threads=1).run(["logits"], done.feeds)[0]
    assert logits.shape == (1, 2, size, size)
    assert largest_error(done, {"logits": logits}) < 5e-5


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("bert_model"), "no text encoder"),
        (lambda s: s["model"].pop("classifier.conv2_3.weight"), "lacks parameter classifier.conv2_3.weight"),
        (lambda s: s["model"].update({"backbone.extra": torch.zeros(1)}), "has the unknown parameter backbone.extra"),
        (
            lambda s: s["model"].update({"backbone.norm1.weight": torch.zeros(3)}),
            "has another shape for parameter backbone.norm1.weight",
        ),
        (
            lambda s: s["model"].pop("backbone.patch_embed.proj.weight"),
            "parameter 'backbone.patch_embed.proj.weight' is missing",
        ),
        (lambda s: s.update({"model": 3}), "'model' is a int"),
    ],
)
def test_checkpoints_that_do_not_fit(model: Any, tmp_path: Path, spoil: Any, message: str) -> None:
    held = official(model)
    spoil(held)
    torch.save(held, tmp_path / "c.pth")
    with pytest.raises(InputError, match=message) as error:
        load_lavt(tmp_path / "c.pth", image_size=64, text_heads=4)
    assert "c.pth" in str(error.value)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": tmp_path}, tmp_path / "c.pth")
    with pytest.raises(InputError, match="holds more than weights"):
        load_lavt(tmp_path / "c.pth")


def test_command_line(model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(official(model), tmp_path / "c.pth")
    words = [
        "export",
        "lavt",
        "--checkpoint",
        str(tmp_path / "c.pth"),
        "--image-size",
        "64",
        "--max-tokens",
        "10",
        "--text-heads",
        "4",
        "--json",
    ]
    assert main([*words, "-o", str(tmp_path / "l.onnx")]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["error"] < 1e-4
    assert main([*words, "-o", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err


def test_random_weights_are_seeded() -> None:
    one, same, other = (random_lavt(mini.LAVT_SIZES, seed).state_dict() for seed in (1, 1, 2))
    name = "backbone.layers.0.blocks.0.attn.relative_position_bias_table"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


@pytest.mark.parametrize("words", [[], ["--checkpoint", "c.pth", "--random-weights", "0"]])
def test_one_source_of_weights(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "lavt", *words, "-o", str(tmp_path / "l.onnx")]) == 2
    assert "give either --checkpoint FILE or --random-weights SEED" in capsys.readouterr().err
