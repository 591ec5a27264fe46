"""``onnxptq package``: bake pre- and post-processing into the file."""

from __future__ import annotations

import importlib.util
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxptq.cli.output import Output, folder, writable
from onnxptq.cli.values import add_json, add_output
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
    add_output(parser, "file to write; with --apart a folder", type=Path, required=True)
    parser.add_argument(
        "--prompts", choices=("boxes", "points"), help="of sam in one file: boxes (default), or points with labels"
    )
    parser.add_argument(
        "--apart",
        action="store_true",
        help="of sam: encoder.onnx and decoder.onnx in Segment Anything's own layout, to encode an image once",
    )
    parser.add_argument(
        "--single-mask",
        action="store_true",
        help="with --apart: one mask a prompt by Segment Anything's rule, not four",
    )
    add_json(parser)


def run(args: Namespace, out: Output) -> int:
    """Join, run on a scene, compare with the parts, write."""
    _consistent(args)
    if args.apart:
        with folder(args.output):
            return _written(_apart(args), out)
    writable(args.output)
    package, agreement = (_sam if args.kind == "sam" else _lavt)(args)
    return _written(({args.output: package}, agreement), out)


def _consistent(args: Namespace) -> None:
    """An InputError for options that do not go together."""
    if args.kind == "lavt":
        for option, given in (
            ("--prompts", args.prompts),
            ("--apart", args.apart),
            ("--single-mask", args.single_mask),
        ):
            if given:
                raise InputError(f"package lavt: {option} is an option of sam")
    elif args.vocab is not None:
        raise InputError("package sam: --vocab is an option of lavt")
    if args.apart and args.prompts:
        raise InputError("package sam: --apart takes boxes and points; leave out --prompts")
    if args.single_mask and not args.apart:
        raise InputError("package sam: --single-mask is an option of --apart; one file always gives one mask a prompt")


def _written(made: tuple[dict[Path, onnx.ModelProto], float], out: Output) -> int:
    """Write the packages whose masks agree with the parts'."""
    from onnxptq.graph.save import save
    from onnxptq.report.introduction import introduced
    from onnxptq.report.text import megabytes

    packages, agreement = made
    if agreement < AGREEMENT:
        raise ArtifactError(f"package: its masks agree with the parts' by {agreement:.1f} % only")
    entries = []
    for path, package in packages.items():
        save(package, path)
        size = path.stat().st_size
        entries.append({"path": str(path), "bytes": size, "agreement": agreement})
        out.say(f"{path}: {megabytes(size)}, same masks as the parts by {agreement:.2f} %")
        words = introduced(package)
        for key in ("package", "needs"):
            out.say(f"  {key:<9}{words[key]}")
    out.emit(entries[0] if len(entries) == 1 else {"files": entries, "agreement": agreement})
    return 0


def _sam(args: Namespace) -> tuple[onnx.ModelProto, float]:
    """The package, and the agreement of its masks with the predictor's on one scene."""
    from onnxptq.evaluate.models import sam_files
    from onnxptq.package.sam import package_sam
    from onnxptq.running.sessions import session

    encoder, decoder = sam_files(args.model)
    package = package_sam(encoder, decoder, args.prompts or "boxes")
    image, boxes, wanted = _scene(encoder, decoder)
    feeds = {"image": image, "boxes": boxes}
    if args.prompts == "points":
        feeds = {"image": image, **_corners(boxes)}
    return package, _agreement(session(package).run(["masks"], feeds)[0], wanted)


def _apart(args: Namespace) -> tuple[dict[Path, onnx.ModelProto], float]:
    """``_sam`` for two files. Of several masks the predictor's is the first."""
    import numpy as np

    from onnxptq.evaluate.models import sam_files
    from onnxptq.package.sam import input_side, package_decoder, package_encoder
    from onnxptq.running.sessions import session

    encoder, decoder = sam_files(args.model)
    first, whole = package_encoder(encoder), package_decoder(encoder, decoder)
    image, boxes, wanted = _scene(encoder, decoder)
    scale = input_side(encoder) / max(image.shape[:2])
    run = session(whole)
    side = run.get_inputs()[3].shape[-1]
    masks = run.run(
        ["masks"],
        {
            "image_embeddings": session(first).run(None, {"image": image})[0],
            **_corners(boxes * np.float32(scale)),
            "mask_input": np.zeros((1, 1, side, side), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array(image.shape[:2], np.float32),
        },
    )[0]
    second = package_decoder(encoder, decoder, single=True) if args.single_mask else whole
    files = {args.output / "encoder.onnx": first, args.output / "decoder.onnx": second}
    return files, _agreement(masks[:, 0] > 0, wanted)


def _scene(encoder: Path, decoder: Path) -> tuple[Any, Any, Masks]:
    """An image, boxes of its objects, and the masks of the parts run from Python."""
    import numpy as np

    from onnxptq.datasets import scenes
    from onnxptq.evaluate.predictors import SamPredictor

    scene = scenes.scene_for("testA", 0)
    boxes = np.array([o.box for o in scene.objects], np.float32)
    return scene.image, boxes, SamPredictor(encoder, decoder).masks(scene.image, boxes)


def _corners(boxes: Any) -> dict[str, Any]:
    """Boxes [n, 4] as points."""
    import numpy as np

    labels = np.tile(np.array([2.0, 3.0], np.float32), (len(boxes), 1))
    return {"point_coords": boxes.reshape(-1, 2, 2), "point_labels": labels}


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
