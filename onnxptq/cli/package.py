"""``onnxptq package``: bake pre- and post-processing into the file."""

from __future__ import annotations

import importlib.util
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxptq.cli.output import Output, writable
from onnxptq.cli.values import add_json
from onnxptq.errors import ArtifactError, InputError

if TYPE_CHECKING:
    import onnx

    from onnxptq.evaluate.predictors import Masks

AGREEMENT = 95.0
"""Least agreement, in percent, of the package's masks with those of the parts run from Python; their resizing differs
in the last bits."""


def add(parser: ArgumentParser) -> None:
    """Options."""
    parser.add_argument(
        "kind",
        metavar="KIND",
        choices=("sam", "lavt"),
        help="sam: image and boxes in, masks out; lavt: image and sentence in, mask out",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        required=True,
        help="ENCODER.onnx,DECODER.onnx or a folder with both (sam), FILE.onnx (lavt)",
    )
    parser.add_argument(
        "--vocab", type=Path, metavar="FILE", help="of lavt: the model's vocab.txt (default: the zoo's)"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="OUT", required=True, help="file to write")
    add_json(parser)


def run(args: Namespace, out: Output) -> int:
    """Join, run on a scene, compare with the parts, write."""
    from onnxptq.graph.save import save

    writable(args.out)
    package, agreement = (_sam if args.kind == "sam" else _lavt)(args)
    if agreement < AGREEMENT:
        raise ArtifactError(f"package: its masks agree with the parts' by {agreement:.1f} % only")
    save(package, args.out)
    size = args.out.stat().st_size
    out.say(f"{args.out}: {size / 2**20:.1f} MiB, same masks as the parts by {agreement:.2f} %")
    out.emit({"path": str(args.out), "bytes": size, "agreement": agreement})
    return 0


def _sam(args: Namespace) -> tuple[onnx.ModelProto, float]:
    """The package, and the agreement of its masks with the predictor's on one scene."""
    import numpy as np

    from onnxptq.datasets import scenes
    from onnxptq.evaluate.models import sam_files
    from onnxptq.evaluate.predictors import SamPredictor
    from onnxptq.package.sam import package_sam
    from onnxptq.running.sessions import session

    encoder, decoder = sam_files(args.model)
    package = package_sam(encoder, decoder)
    scene = scenes.scene_for("testA", 0)
    boxes = np.array([o.box for o in scene.objects], np.float32)
    masks, _ = session(package).run(["masks", "scores"], {"image": scene.image, "boxes": boxes})
    return package, _agreement(masks, SamPredictor(encoder, decoder).masks(scene.image, boxes))


def _lavt(args: Namespace) -> tuple[onnx.ModelProto, float]:
    """``_sam`` for a model with a tokenizer, at the model's own size, where its mask is not resized."""
    import numpy as np
    from PIL import Image

    from onnxptq.datasets import scenes, zoo
    from onnxptq.evaluate.models import lavt_file, open_lavt
    from onnxptq.evaluate.predictors import Masks
    from onnxptq.package.lavt import package_lavt
    from onnxptq.running.sessions import session

    if importlib.util.find_spec("onnxruntime_extensions") is None:
        raise InputError(
            "package lavt needs onnxruntime-extensions for its tokenizer: pip install 'onnxptq[extensions]'"
        )
    from onnxruntime_extensions import get_library_path

    predictor = open_lavt(args.model, vocabulary=args.vocab)
    package = package_lavt(lavt_file(args.model), args.vocab or zoo.VOCABULARY)
    scene, ref = scenes.ref_sample("refscene-g", "testA", 0)
    image = np.asarray(Image.fromarray(scene.image).resize((predictor.size, predictor.size)))
    run = session(package, libraries=[get_library_path()])
    (mask,) = run.run(["mask"], {"image": image, "text": np.array([ref.text], object)})
    return package, _agreement(mask[None], Masks(predictor.mask(image, ref.text)[None], np.ones(1, np.float32)))


def _agreement(masks: Any, wanted: Masks) -> float:
    from onnxptq.evaluate.overlap import Agreement

    found = Agreement()
    found.add(masks, wanted.masks)
    return found.percent
