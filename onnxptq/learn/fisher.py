"""Gradients of a model's log-likelihood at inner tensors: the weights of a Hessian-guided metric.

With y drawn from the model's own prediction, E[g g'] of g = d(-log p(y)) / d(tensor) is the Fisher information, and g'
(change of the tensor) squared is in expectation what that change costs. Published code takes KL(p || p) instead, whose
gradient is zero but for rounding, and its softmax over the image's width; here labels are drawn, and the axis of
classes is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxptq.calibration.gradients import NoGradient, Take
from onnxptq.errors import InputError, nearest
from onnxptq.graph.model import Model
from onnxptq.learn.executor import Executor

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Likelihood = Literal["gaussian", "categorical", "bernoulli"]
LIKELIHOODS = ("gaussian", "categorical", "bernoulli")


class Fisher:
    """Gradients at a model's tensors, one draw of labels per sample: a ``calibration.gradients.Gradients``.

    ``output`` (by default the first) is read as ``categorical``: scores of classes along ``class_axis``, a label for
    each place of the other axes; ``bernoulli``: each element the score of a yes; ``gaussian``: means of unit variance,
    for features or unknown outputs, so a change counts by how far it moves the output. NumPy draws the labels from seed
    and sample number, so they are the same on every machine and device.
    """

    def __init__(
        self,
        *,
        output: str | None = None,
        likelihood: Likelihood = "gaussian",
        class_axis: int = 1,
        seed: int = 0,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        if likelihood not in LIKELIHOODS:
            raise InputError(f"fisher: unknown likelihood {likelihood!r}{nearest(likelihood, LIKELIHOODS)}")
        self.output, self.likelihood, self.class_axis, self.seed = output, likelihood, class_axis, seed
        self.device, self.threads = device, threads

    def at(self, model: Model, tensors: Sequence[str]) -> Take:
        """A function that computes the gradients at these tensors of ``model`` in its current state."""
        executor = Executor(model, device=self.device)
        output = self.output or executor.outputs[0]
        if output not in executor.outputs:
            raise InputError(f"fisher: the model has no output {output!r}{nearest(output, executor.outputs)}")

        def take(sample: Mapping[str, NDArray[Any]], index: int) -> Mapping[str, F32]:
            with _on(self.threads):
                return self._gradients(executor, output, tuple(tensors), sample, index)

        return take

    def _gradients(
        self, executor: Executor, output: str, tensors: tuple[str, ...], sample: Mapping[str, NDArray[Any]], index: int
    ) -> dict[str, F32]:
        watched: dict[str, Tensor] = {}

        def watch(name: str, value: Tensor) -> Tensor:
            if not value.is_floating_point():
                raise NoGradient(f"fisher: tensor {name!r} holds no floats, so it has no gradient")
            watched[name] = value if value.requires_grad else value.detach().requires_grad_()
            return watched[name]

        hooks = {name: lambda value, name=name: watch(name, value) for name in tensors}
        feeds = {name: sample[name] for name in executor.inputs}
        with torch.enable_grad():
            scores = executor(feeds, [output], hooks=hooks)[output]
        unreached = [name for name in tensors if name not in watched]
        if unreached or not scores.requires_grad:
            raise NoGradient(f"fisher: output {output!r} does not depend on tensor {(unreached or tensors)[0]!r}")
        found = torch.autograd.grad(scores, list(watched.values()), self._score(scores, index), allow_unused=True)
        held = {name: g.cpu().numpy() for name, g in zip(watched, found, strict=True) if g is not None}
        for name in tensors:
            if name not in held:
                raise NoGradient(f"fisher: output {output!r} does not depend on tensor {name!r}")
            if not np.isfinite(held[name]).all():
                raise NoGradient(
                    f"fisher: the gradient of output {output!r} at tensor {name!r} is not finite on sample {index}"
                )
        return {name: held[name] for name in tensors}

    def _score(self, output: Tensor, index: int) -> Tensor:
        """The gradient of -log p(y) at the output, for labels drawn from it."""
        z = output.detach().double().cpu().numpy()
        source = np.random.default_rng((self.seed, index))
        match self.likelihood:
            case "gaussian":
                score = source.standard_normal(z.shape)
            case "bernoulli":
                score = _sigmoid(z) - (source.uniform(size=z.shape) < _sigmoid(z))
            case "categorical":
                score = self._categorical(z, source)
        return torch.from_numpy(score).to(output)

    def _categorical(self, z: F64, source: np.random.Generator) -> F64:
        if not -z.ndim <= self.class_axis < z.ndim or z.shape[self.class_axis] < 2:
            raise InputError(
                f"fisher: an output of shape {z.shape} has no classes along axis {self.class_axis}; name another "
                f"class axis"
            )
        classes = np.moveaxis(z, self.class_axis, -1)
        p = np.exp(classes - classes.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        below = np.cumsum(p, axis=-1)[..., :-1] <= source.uniform(size=(*p.shape[:-1], 1))
        drawn = below.sum(-1, keepdims=True) == np.arange(p.shape[-1])
        return np.moveaxis(p - drawn, -1, self.class_axis)


@contextmanager
def _on(threads: int | None) -> Iterator[None]:
    """Use this number of torch threads temporarily; torch has one global number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _sigmoid(z: F64) -> F64:
    held: F64 = 0.5 * (1 + np.tanh(z / 2))
    return held


def gradients(
    model: Model, values: Sequence[str], feeds: Mapping[str, NDArray[Any]], *, index: int = 0, **options: Any
) -> dict[str, F32]:
    """Gradients at ``values`` on one sample; ``index`` numbers the draw, ``options`` are those of ``Fisher``."""
    found = dict(Fisher(**options).at(model, values)(feeds, index))
    _require_any(found)
    return found


def _require_any(found: Mapping[str, NDArray[Any]]) -> None:
    """Raise NoGradient if all gradients are zero."""
    for name, values in found.items():
        if not values.any():
            raise NoGradient(f"fisher: the gradient at tensor {name!r} is zero everywhere")
