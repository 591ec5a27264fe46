"""ADE20K's and DOTA's layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxptq.datasets.ade20k import Ade20k
from onnxptq.datasets.dota import Dota
from onnxptq.errors import InputError


def test_class_maps(ade_folder: Path) -> None:
    data = Ade20k.load(ade_folder, split="training")
    scene = data.scenes[1]
    assert scene.name == "x_2"
    assert "training" in str(scene.image_path)
    assert set(np.unique(scene.truth())) == {0, 3, 17}
    assert scene.image().shape == (24, 32, 3)


def test_coarse_maps_elsewhere(ade_folder: Path) -> None:
    (ade_folder / "predictions" / "validation").rename(ade_folder / "other")
    with pytest.raises(InputError, match=r"no class map .*x_1\.png"):
        Ade20k.load(ade_folder)
    assert len(Ade20k.load(ade_folder, coarse=ade_folder / "other").scenes) == 2
    with pytest.raises(InputError, match=r"coarse maps .*none: no such folder"):
        Ade20k.load(ade_folder, coarse=ade_folder / "none")


def test_unknown_split_and_folder(ade_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data .*nowhere: no such folder"):
        Ade20k.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="split 'test': no image in"):
        Ade20k.load(ade_folder, split="test")


def test_maps_of_a_wrong_kind(ade_folder: Path) -> None:
    path = ade_folder / "annotations" / "validation" / "x_1.png"
    scene = Ade20k.load(ade_folder).scenes[0]
    Image.new("RGB", (32, 24)).save(path)
    with pytest.raises(InputError, match="has 3 channels"):
        scene.truth()
    Image.new("L", (30, 24)).save(path)
    with pytest.raises(InputError, match="is 30 x 24, but its image 32 x 24"):
        scene.truth()
    Image.new("L", (32, 24), 151).save(path)
    with pytest.raises(InputError, match="class 151"):
        scene.truth()


def test_oriented_objects(dota_folder: Path) -> None:
    data = Dota.load(dota_folder)
    assert [i.name for i in data] == ["P1"]
    ship, plane = data.images[0].objects
    assert ship.box == (10, 10, 30, 20)
    assert (plane.category, plane.difficult) == ("plane", True)
    assert plane.box == (35.5, 40, 50.5 - 0.5, 55)
    assert data.categories == ("plane", "ship")


@pytest.mark.parametrize(
    "line",
    [
        "1 2 3 4 5 6 7 ship 0",
        "a 2 3 4 5 6 7 8 ship 0",
        "1 2 3 4 5 6 7 8",
        "1 2 3 4 5 6 7 nan ship 0",
        "1 2 3 4 5 6 7 8 ship x",
    ],
)
def test_malformed_lines_are_named(dota_folder: Path, line: str) -> None:
    (dota_folder / "labelTxt" / "P1.txt").write_text(f"gsd:1\n{line}\n")
    with pytest.raises(InputError, match=r"P1\.txt: line 2"):
        Dota.load(dota_folder)


def test_missing_parts(dota_folder: Path) -> None:
    (dota_folder / "labelTxt" / "P1.txt").unlink()
    with pytest.raises(InputError, match=r"no label file .*P1\.txt"):
        Dota.load(dota_folder)
    (dota_folder / "images" / "P1.png").unlink()
    with pytest.raises(InputError, match="no image in"):
        Dota.load(dota_folder)
    (dota_folder / "images").rmdir()
    with pytest.raises(InputError, match="no folder images"):
        Dota.load(dota_folder)


def test_real_scenes(real: Path) -> None:
    scenes = list(Ade20k.load(real / "ade20k_sceneparsing" / "sampleData"))
    assert len(scenes) == 3
    assert all(0 < s.truth().max() <= 150 for s in scenes)
    images = {i.name: i for i in Dota.load(real / "dota")}
    assert len(images["P0706"].objects) == 536
    assert images["P1888"].image().shape == (557, 712, 3)
