"""The page of `onnxptq web`, driven in a headless Chromium: its masks are those of Python."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxptq.cli import main
from onnxptq.cli.web import SCENES
from onnxptq.datasets import scenes
from onnxptq.running.sessions import session
from tests.runtimes.conftest import HERE, driven, served

pytestmark = pytest.mark.slow

SIDES = ("original", "quantized")
AGREEMENT = 0.99


class Page:
    """A site, served, and the sessions of its models in Python."""

    def __init__(self, folder: Path, browser: str, url: str) -> None:
        self.folder, self._browser, self._url = folder, browser, url
        models = {
            (side, part): folder / "models" / f"{side}-{part}.onnx" for side in SIDES for part in ("encoder", "decoder")
        }
        self._sessions = {key: session(path, executor="function", threads=1) for key, path in models.items()}

    def drive(self, width: int, height: int, steps: list[tuple[str, Any]]) -> dict[str, Any]:
        """What the page drew while it was used."""
        found: dict[str, Any] = driven(
            "page.mjs", self._browser, url=self._url, width=width, height=height, steps=steps
        )
        assert found["problems"] == []
        assert found["hosts"] == [self._url.split("/")[2]]  # nothing is fetched from elsewhere
        assert found["overflow"] <= 0
        return found

    def masks(self, image: Any, prompt: dict[str, Any]) -> dict[str, Any]:
        """The masks of a prompt by Python, as the page chooses among them."""
        scale = 128 / max(image.shape[:2])
        coords, labels = (prompt["box"], [2, 3]) if "box" in prompt else ([*prompt["point"], 0, 0], [1, -1])
        found = {}
        for side in SIDES:
            decoder = self._sessions[side, "decoder"]
            low = decoder.get_inputs()[3].shape[-1]
            masks, scores = decoder.run(
                ["masks", "iou_predictions"],
                {
                    "image_embeddings": self._sessions[side, "encoder"].run(None, {"image": image})[0],
                    "point_coords": np.array(coords, np.float32).reshape(1, 2, 2) * np.float32(scale),
                    "point_labels": np.array([labels], np.float32),
                    "mask_input": np.zeros((1, 1, low, low), np.float32),
                    "has_mask_input": np.zeros(1, np.float32),
                    "orig_im_size": np.array(image.shape[:2], np.float32),
                },
            )
            found[side] = masks[0, 0 if "box" in prompt else 1 + scores[0, 1:].argmax()] > 0
        return found


@pytest.fixture(scope="module")
def page(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page") / "site"
    words = ["--recipe", "minmax", "--samples", "4", "--threads", "1"]
    assert main(["web", str(folder), *words, "--ort", str(HERE / "node_modules" / "onnxruntime-web")]) == 0
    with served(folder) as url:
        yield Page(folder, chromium, url)


def check(page: Page, found: dict[str, Any], images: list[Any]) -> None:
    """Every mask that the page drew is Python's."""
    assert len(found["drawn"]) == len(images)
    for one, image in zip(found["drawn"], images, strict=True):
        assert (one["height"], one["width"]) == image.shape[:2]
        wanted = page.masks(image, one["prompt"])
        for side in SIDES:
            mask = np.frombuffer(base64.b64decode(one["masks"][side]), np.bool_).reshape(image.shape[:2])
            assert mask.any(), one["prompt"]
            overlap = (mask & wanted[side]).sum() / (mask | wanted[side]).sum()
            assert overlap >= AGREEMENT, f"{side}, {one['prompt']}: {overlap:.4f}"


def test_a_click_and_a_box_on_pictures_and_a_photograph(page: Page, tmp_path: Path) -> None:
    first, third = (np.asarray(Image.open(page.folder / "pictures" / f"{n}.png")) for n in (0, 2))
    objects = scenes.scene_for(*SCENES[0]).objects
    photo = scenes.scene_for("val", 40)
    Image.fromarray(photo.image[:200]).save(tmp_path / "photo.png")
    inside = max((one for one in photo.objects if one.box[3] < 200), key=lambda one: one.area)
    steps = [
        ("click", [objects[0].cx / 256, objects[0].cy / 256]),
        ("drag", [side / 256 for side in objects[1].box]),
        ("slider", 80),
        ("picture", 2),
        ("file", str(tmp_path / "photo.png")),
        ("click", [inside.cx / 256, inside.cy / 200]),
    ]
    found = page.drive(1280, 900, steps)
    assert [next(iter(one["prompt"])) for one in found["drawn"]] == ["box", "point", "box", "box", "point", "point"]
    check(page, found, [first, first, first, third, *2 * [photo.image[:200]]])
    x, y = found["drawn"][1]["prompt"]["point"]
    assert (x, y) == pytest.approx((objects[0].cx, objects[0].cy), abs=1)
    assert {name: value for name, value in found["figures"].items() if not value.strip("–")} == {}
    assert found["figures"]["original-encode"].endswith(" ms")


def test_on_a_phone(page: Page) -> None:
    first = np.asarray(Image.open(page.folder / "pictures" / "0.png"))
    one = scenes.scene_for(*SCENES[0]).objects[0]
    found = page.drive(375, 740, [("click", [one.cx / 256, one.cy / 256])])
    assert found["width"] == 375 - 2 * 14  # the picture is as wide as the screen, less the margins
    check(page, found, [first, first])
