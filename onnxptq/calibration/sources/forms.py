"""Samples in the forms that people have them in: mappings, arrays, tuples, tensors and batches of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from onnxptq.errors import InputError

if TYPE_CHECKING:
    from onnxptq.calibration.sources.source import InputSpec

Transform = Callable[[Any], Any]


class Transformed:
    """Samples, each changed by a function in every walk."""

    def __init__(self, samples: Iterable[Any], transform: Transform) -> None:
        self._samples, self._transform = samples, transform

    def __len__(self) -> int:
        assert isinstance(self._samples, Sized)
        return len(self._samples)

    def __iter__(self) -> Iterator[Any]:
        return map(self._transform, self._samples)


def transformed(samples: Any, transform: Transform | None) -> Any:
    """The samples changed by ``transform``, which is for samples given in Python."""
    if transform is None:
        return samples
    if not callable(transform):
        raise InputError(f"transform={transform!r}: give a function that makes one sample of one item")
    if not isinstance(samples, Iterable) or isinstance(samples, (str, Mapping)) or is_array(samples):
        raise InputError("transform: is for an iterable of samples, such as a list or a torch DataLoader")
    return (
        Transformed(samples, transform)
        if isinstance(samples, Sized) and not shuffled(samples)
        else map(transform, samples)
    )


def shuffled(samples: object) -> bool:
    """Whether a torch DataLoader gives its samples in another order in each walk."""
    sampler = getattr(samples, "sampler", None)
    return hasattr(samples, "batch_size") and type(sampler).__name__ not in ("NoneType", "SequentialSampler")


def is_array(value: object) -> bool:
    """Whether a value is an array or a torch tensor, and not a container of them."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def array(value: Any) -> Any:
    """A torch tensor as an array; anything else unchanged."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def by_name(sample: Any, inputs: Sequence[InputSpec], label: str) -> Mapping[str, Any]:
    """A sample by input names: a mapping itself, an array as the only input, several in the order of the inputs."""
    if isinstance(sample, Mapping):
        return {name: array(value) for name, value in sample.items()}
    held = [sample] if is_array(sample) else sample
    if not isinstance(held, (list, tuple)) or not all(is_array(one) for one in held):
        raise InputError(
            f"calibration {label}: expected a mapping of input names to arrays, an array, or a tuple of arrays, "
            f"got {type(sample).__name__}"
        )
    names = [spec.name for spec in inputs]
    if len(held) != len(names):
        raise InputError(
            f"calibration {label}: {len(held)} arrays for {len(names)} inputs ({', '.join(names)}); "
            "transform=lambda item: ... picks them"
        )
    return {name: array(value) for name, value in zip(names, held, strict=True)}


def stacked(arrays: dict[str, NDArray[Any]], inputs: Sequence[InputSpec]) -> Sequence[dict[str, NDArray[Any]]]:
    """One sample, or several along a first axis that is additional or longer than the model's."""
    ranks = {spec.name: len(spec.shape) for spec in inputs}
    lengths = {a.shape[:1] for a in arrays.values()}
    if not arrays or any(name not in arrays for name in ranks) or len(lengths) != 1 or lengths <= {(), (0,)}:
        return [arrays]
    (count,) = lengths.pop()
    if all(arrays[name].ndim == rank + 1 for name, rank in ranks.items()):
        return _Slices(count, lambda i: {name: a[i] for name, a in arrays.items()})
    if all(arrays[s.name].ndim == len(s.shape) and s.shape[0] == 1 and count > 1 for s in inputs):
        return _Slices(count, lambda i: {name: a[i : i + 1] for name, a in arrays.items()})
    return [arrays]


class _Slices(Sequence[dict[str, NDArray[Any]]]):
    """Samples along a first axis, each created on request."""

    def __init__(self, count: int, take: Callable[[int], dict[str, NDArray[Any]]]) -> None:
        self._count, self._take = count, take

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._take(index)
