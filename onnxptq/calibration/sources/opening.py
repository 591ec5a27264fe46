"""``open_source``: the source of samples for a user's specification."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path

from onnxptq.calibration.sources.files import open_path
from onnxptq.calibration.sources.forms import Transform, by_name, is_array, shuffled, stacked, transformed
from onnxptq.calibration.sources.source import InputSpec, Lazy, Listed, Source
from onnxptq.calibration.sources.synthetic import DEFAULT_COUNT, Synthetic
from onnxptq.datasets.draw import DRAWS, Draw, How
from onnxptq.datasets.specs import is_named, open_named
from onnxptq.errors import InputError
from onnxptq.running.sessions import session


def open_source(
    spec: object = "synthetic",
    *,
    inputs: Sequence[InputSpec],
    samples: int | None = None,
    preprocess: str = "imagenet",
    seed: int = 0,
    draw: How = "random",
    shapes: Mapping[str, Sequence[int]] | None = None,
    transform: Transform | None = None,
) -> Source:
    """The source for ``spec``: ``synthetic``, a folder of images, .npz or .npy, one such file, or samples themselves.

    Data sets are one word: ``zoo:MODEL``, ``sam:IMAGES+INSTANCES.json+ENCODER.onnx``, ``refcoco:FOLDER``.

    ``samples`` of the files of a folder or of a data set are drawn at random by ``seed``, or are the ``first`` ones.

    Samples are an iterable of mappings, arrays or tuples of arrays (a list, a generator, a torch DataLoader); one array
    or one mapping of arrays with the samples along the first axis; or an object with ``get_next`` like onnxruntime's
    calibration readers. ``transform`` makes a sample of each item.
    """
    if samples is not None and samples < 1:
        raise InputError(f"--samples {samples}: give at least 1")
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {seed}: give a whole number from 0 to {2**32 - 1}")
    if draw not in DRAWS:
        raise InputError(f"--draw {draw}: choose {' or '.join(DRAWS)}")
    drawn = Draw(samples, draw, seed)
    if isinstance(spec, Source):
        return spec
    spec = transformed(spec, transform)
    if isinstance(spec, str) and spec == "synthetic":
        return Synthetic(
            inputs, samples=samples or DEFAULT_COUNT, preprocess=preprocess, seed=seed, shapes=shapes or {}
        )
    if isinstance(spec, str) and is_named(spec):
        named = open_named(spec, {i.name: i.shape for i in inputs}, count=samples, seed=seed, draw=draw, start=session)
        return Lazy(named, inputs, length=len(named), limit=samples, name=spec)
    if isinstance(spec, (str, Path)):
        return open_path(Path(spec), inputs, draw=drawn, preprocess=preprocess)
    if hasattr(spec, "get_next"):
        return Listed(iter(spec.get_next, None), inputs, limit=samples, name="samples of a data reader")
    if isinstance(spec, Mapping) or is_array(spec):
        return Listed(stacked(dict(by_name(spec, inputs, "samples")), inputs), inputs, limit=samples)
    if not isinstance(spec, Iterable):
        raise InputError(
            f"calibration: expected a path, 'synthetic' or an iterable of samples, got {type(spec).__name__}"
        )
    if isinstance(spec, (list, tuple)) or not isinstance(spec, Sized) or shuffled(spec):
        return Listed(spec, inputs, limit=samples)
    return Lazy(spec, inputs, length=len(spec), limit=samples)
