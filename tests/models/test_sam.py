"""Segment Anything: our wrappers equal the packages' own models, checkpoints load, other image sizes work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from onnxptq.cli import main  # noqa: E402
from onnxptq.errors import InputError  # noqa: E402
from onnxptq.models import export as exporting  # noqa: E402
from onnxptq.models.export import largest_error  # noqa: E402
from onnxptq.models.sam import huggingface  # noqa: E402
from onnxptq.models.sam.build import build, load_sam, random_sam  # noqa: E402
from onnxptq.models.sam.config import PRESETS, SamConfig, infer, preset  # noqa: E402
from onnxptq.models.sam.to_onnx import export_decoder, export_encoder  # noqa: E402
from onnxptq.models.sam.wrappers import Decoder, Encoder  # noqa: E402
from onnxptq.running.sessions import session  # noqa: E402

SMALL = SamConfig(
    image_size=64,
    patch_size=8,
    embed_dim=32,
    depth=2,
    heads=2,
    window=3,
    global_attention=(1,),
    prompt_dim=32,
    decoder_mlp=48,
    iou_hidden=32,
)


@pytest.fixture(scope="module")
def sam() -> Any:
    torch.set_num_threads(1)
    return random_sam(SMALL, 3)


def prompts(count: int) -> tuple[Any, Any, Any]:
    source = torch.Generator().manual_seed(count)
    embeddings = torch.randn(1, 32, 8, 8, generator=source)
    corners = torch.rand(count, 2, 2, generator=source) * 64
    return embeddings, corners, torch.tensor([[2.0, 3.0]]).repeat(count, 1)


@torch.no_grad()
def test_boxes_decode_as_in_the_package(sam: Any) -> None:
    embeddings, corners, labels = prompts(3)
    sparse, dense = sam.prompt_encoder(points=None, boxes=corners.reshape(-1, 4), masks=None)
    want = sam.mask_decoder.predict_masks(embeddings, sam.prompt_encoder.get_dense_pe(), sparse, dense)
    got = Decoder(sam)(embeddings, corners, labels)
    assert got[0].shape == (3, 4, 32, 32)
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_points_and_masks_decode_as_in_the_package(sam: Any) -> None:
    embeddings, corners, _ = prompts(2)
    kinds = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    mask = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    sparse, dense = sam.prompt_encoder(points=(corners, kinds), boxes=None, masks=mask)
    want = sam.mask_decoder.predict_masks(embeddings, sam.prompt_encoder.get_dense_pe(), sparse, dense)
    padded = torch.cat([corners, torch.zeros(2, 1, 2)], 1), torch.cat([kinds, -torch.ones(2, 1)], 1)
    decoder = Decoder(sam, mask_input=True)
    got = decoder(embeddings, *padded, mask, torch.ones(1))
    torch.testing.assert_close(got[0], want[0], atol=1e-5, rtol=1e-5)
    without = decoder(embeddings, *padded, mask, torch.zeros(1))
    torch.testing.assert_close(without[0], Decoder(sam)(embeddings, *padded)[0])
    assert not torch.allclose(without[0], got[0], atol=1e-3)


@pytest.mark.parametrize("mask_input", [False, True])
def test_files_equal_torch(sam: Any, tmp_path: Path, mask_input: bool) -> None:
    for done in (
        export_encoder(sam, tmp_path / "e.onnx"),
        export_decoder(sam, tmp_path / "d.onnx", mask_input=mask_input),
    ):
        names = list(done.expected)
        found = dict(zip(names, session(done.path, threads=1).run(names, done.feeds), strict=True))
        assert largest_error(done, found) < 1e-5
    inputs = [i.name for i in onnx.load(str(tmp_path / "d.onnx")).graph.input]
    assert inputs[:3] == ["image_embeddings", "point_coords", "point_labels"]
    assert len(inputs) == (5 if mask_input else 3)


def test_every_size_is_read_off_the_weights() -> None:
    for config in (SMALL, replace(PRESETS["vit_b"], depth=3, global_attention=(2,), embed_dim=64, heads=4)):
        assert infer(build(config).state_dict()) == config
    with torch.device("meta"):
        for name in PRESETS:
            assert infer(build(preset(name)).state_dict()) == preset(name)


def test_checkpoints(sam: Any, tmp_path: Path) -> None:
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    again = load_sam(tmp_path / "sam.pth")
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(Encoder(again)(image), Encoder(sam)(image))
    with pytest.raises(InputError, match=r"sam\.pth is of another size, not vit_b"):
        load_sam(tmp_path / "sam.pth", model="vit_b")


def test_another_image_size(sam: Any, tmp_path: Path) -> None:
    """Position tables are resampled: a table that is a ramp stays one."""
    state = {k: v.clone() for k, v in sam.state_dict().items()}
    ramp = torch.linspace(0, 1, 8)
    state["image_encoder.pos_embed"] = ramp[None, :, None, None].expand(1, 8, 8, 32).contiguous()
    torch.save(state, tmp_path / "sam.pth")
    large = load_sam(tmp_path / "sam.pth", image_size=96)
    table = large.image_encoder.pos_embed[0, :, 0, 0].detach()
    assert table.shape == (12,)
    assert (table.diff() > 0).all()
    assert float(table[6]) == pytest.approx(float(torch.lerp(ramp[3], ramp[4], 0.83)), abs=0.03)
    assert large.image_encoder.blocks[1].attn.rel_pos_h.shape[0] == 23
    assert large.image_encoder.blocks[0].attn.rel_pos_h.shape[0] == 5, "windows keep theirs"
    with torch.no_grad():
        assert Encoder(large)(torch.zeros(1, 3, 96, 96)).shape == (1, 32, 12, 12)
    with pytest.raises(InputError, match="image size 100: give a multiple of the patch size 8"):
        load_sam(tmp_path / "sam.pth", image_size=100)


def test_random_weights_are_seeded_and_leave_no_table_empty() -> None:
    one, same, other = (random_sam(SMALL, seed).state_dict() for seed in (1, 1, 2))
    for name in (
        "image_encoder.pos_embed",
        "image_encoder.blocks.1.attn.rel_pos_w",
        "image_encoder.blocks.0.attn.qkv.weight",
    ):
        assert torch.equal(one[name], same[name])
        assert not torch.equal(one[name], other[name])
    assert float(one["image_encoder.pos_embed"].std()) == pytest.approx(0.02, rel=0.1)


def test_files_above_the_protobuf_limit_get_their_weights_beside_them(
    sam: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_ONE_FILE", 1000)
    for exporter in ("torchscript", "dynamo"):
        done = export_encoder(sam, tmp_path / exporter / "e.onnx", exporter=exporter)
        names = sorted(p.name for p in done.path.parent.iterdir())
        assert names == ["e.onnx", "e.onnx.data"]
        found = session(done.path, threads=1).run(["image_embeddings"], done.feeds)[0]
        assert largest_error(done, {"image_embeddings": found}) < 1e-5


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SamModel of transformers, saved."""
    transformers = pytest.importorskip("transformers")
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "window_size": 3,
    }
    vision |= {
        "global_attn_indexes": [1],
        "output_channels": 32,
        "mlp_dim": 64,
        "num_pos_feats": 16,
        "initializer_range": 0.2,
    }
    prompt = {"hidden_size": 32, "image_size": 64, "patch_size": 8, "image_embedding_size": 8}
    decoder = {"hidden_size": 32, "num_attention_heads": 4, "mlp_dim": 64, "iou_head_hidden_dim": 32}
    config = transformers.SamConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder, initializer_range=0.2
    )
    torch.manual_seed(0)
    model = transformers.SamModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    folder = tmp_path_factory.mktemp("hf")
    model.save_pretrained(folder)
    return folder


def test_transformers_model(theirs: Path, tmp_path: Path) -> None:
    model = huggingface.load(theirs)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[10.0, 12, 50, 60], [20, 20, 60, 40]]])
    with torch.no_grad():
        want = model(pixel_values=image, input_boxes=boxes, multimask_output=True)
        single = model(pixel_values=image, input_boxes=boxes, multimask_output=False)
        embeddings = huggingface.HfEncoder(model)(image)
        masks, scores = huggingface.HfDecoder(model)(
            embeddings, boxes.reshape(2, 2, 2), torch.tensor([[2.0, 3.0]]).repeat(2, 1)
        )
    assert float(embeddings.abs().max()) > 0.1
    torch.testing.assert_close(masks[:, 1:], want.pred_masks[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(masks[:, :1], single.pred_masks[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores[:, 1:], want.iou_scores[0], atol=1e-4, rtol=1e-4)
    for done in (
        huggingface.export_encoder(model, tmp_path / "e.onnx"),
        huggingface.export_decoder(model, tmp_path / "d.onnx", mask_input=True),
    ):
        names = list(done.expected)
        found = dict(zip(names, session(done.path, threads=1).run(names, done.feeds), strict=True))
        assert largest_error(done, found) < 2e-5


def test_command_line(sam: Any, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    assert (
        main(["export", "sam", "--checkpoint", str(tmp_path / "sam.pth"), "-o", str(tmp_path / "out"), "--json"]) == 0
    )
    files = json.loads(capsys.readouterr().out)["files"]
    assert [Path(f["path"]).name for f in files] == ["encoder.onnx", "decoder.onnx"]
    assert all(f["error"] < 1e-4 and f["bytes"] == Path(f["path"]).stat().st_size for f in files)
    assert main(["export", "sam", "--checkpoint", str(theirs), "-o", str(tmp_path / "hf"), "--dynamic-batch"]) == 0
    two = session(tmp_path / "hf" / "encoder.onnx", threads=1).run(
        None, {"image": np.zeros((2, 3, 64, 64), np.float32)}
    )[0]
    assert two.shape == (2, 32, 8, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --checkpoint FILE or --random-weights SEED"),
        (["--checkpoint", "none.pth"], "checkpoint none.pth: no such file"),
        (["--random-weights", "0", "--model", "vit_x"], "model 'vit_x': choose vit_b, vit_l, vit_h"),
        (["--random-weights", "0", "--image-size", "1000"], "image size 1000: give a multiple of the patch size 16"),
        (["--checkpoint", "bad.pth"], "bad.pth is no torch checkpoint"),
        (["--checkpoint", "other.pth"], "other.pth: not a Segment Anything checkpoint, parameter 'image_encoder"),
        (["--checkpoint", "list.pth"], "list.pth holds a list"),
        (["--checkpoint", "folder"], "checkpoint folder: no config.json"),
        (["--checkpoint", "cut.pth"], "cut.pth: not a Segment Anything checkpoint, parameter 'mask_decoder"),
        (["--checkpoint", "bent.pth"], "bent.pth does not fit"),
    ],
)
def test_bad_input_is_one_line(
    sam: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    state = sam.state_dict()
    Path("bad.pth").write_bytes(b"not a checkpoint")
    torch.save({"a": torch.zeros(1)}, "other.pth")
    torch.save([1, 2], "list.pth")
    torch.save({k: v for k, v in state.items() if "mask_decoder" not in k}, "cut.pth")
    torch.save(state | {"mask_decoder.iou_token.weight": torch.zeros(1, 5)}, "bent.pth")
    Path("folder").mkdir()
    assert main(["export", "sam", *words, "-o", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.glob("out/*.onnx"))


def test_the_packages_own_decoder_export_is_understood(tmp_path: Path) -> None:
    """segment_anything's SamOnnxModel has more inputs and outputs; box prompts give the same masks."""
    from onnxptq.evaluate.predictors import SamPredictor
    from onnxptq.models.sam.package import modeling

    modeling()
    from segment_anything.utils.onnx import SamOnnxModel

    sam = random_sam(SMALL, 5)
    with torch.no_grad():
        sam.mask_decoder.output_upscaling[3].bias.add_(0.5)
    export_encoder(sam, tmp_path / "e.onnx")
    export_decoder(sam, tmp_path / "d.onnx")
    inputs = {
        "image_embeddings": torch.randn(1, 32, 8, 8),
        "point_coords": torch.rand(2, 2, 2) * 64,
        "point_labels": torch.tensor([[2.0, 3.0]] * 2),
        "mask_input": torch.zeros(1, 1, 32, 32),
        "has_mask_input": torch.zeros(1),
        "orig_im_size": torch.tensor([64.0, 64.0]),
    }
    dynamic = {"point_coords": {0: "n", 1: "k"}, "point_labels": {0: "n", 1: "k"}}
    outputs = ["masks", "iou_predictions", "low_res_masks"]
    exporting.export(SamOnnxModel(sam, return_single_mask=False), inputs, outputs, tmp_path / "o.onnx", dynamic=dynamic)
    image = np.random.RandomState(0).randint(0, 256, (50, 64, 3), np.uint8)
    boxes = np.array([[5, 5, 40, 30], [10, 20, 60, 45], [0, 0, 20, 20]], np.float32)
    ours, theirs = (
        SamPredictor(tmp_path / "e.onnx", tmp_path / d, threads=1).masks(image, boxes) for d in ("d.onnx", "o.onnx")
    )
    assert (ours.masks != theirs.masks).mean() < 1e-3
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    assert 0 < ours.masks.mean() < 1
