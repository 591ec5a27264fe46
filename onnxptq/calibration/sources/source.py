"""Sources of calibration samples; unsuitable samples are an error of one line."""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.sources.forms import by_name
from onnxptq.errors import InputError

Sample = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class InputSpec:
    """The specification of one model input."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]
    """Sizes; a name or None for a dynamic one (equal names are equal sizes)."""
    below: int | None = None
    """For integers: the length of the table they index, if any."""
    mask: bool = False
    size: bool = False
    """Whether its numbers are sizes of tensors."""

    @property
    def text(self) -> str:
        """Type and shape for messages."""
        return f"{self.dtype.name} [{', '.join('?' if n is None else str(n) for n in self.shape)}]"

    def takes(self, dtype: np.dtype[Any]) -> bool:
        """Whether ``cast`` can convert from a type: between floats, and between integers and booleans."""
        return dtype.kind == self.dtype.kind == "f" or (dtype.kind in "biu" and self.dtype.kind in "biu")

    def cast(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array in the model's type and the machine's byte order; unchanged if that would alter an integer."""
        if not self.takes(array.dtype):
            return array
        with np.errstate(over="ignore"):
            converted = array.astype(self.dtype, copy=False)
        return converted if self.dtype.kind == "f" or np.array_equal(converted, array) else array

    def check(self, array: NDArray[Any], label: str, *, values: bool = True) -> None:
        """An InputError if ``array`` cannot be fed; without ``values`` only type and shape are checked."""
        where = f"calibration {label}: input {self.name!r}"
        if array.dtype != self.dtype and (values or not self.takes(array.dtype)):
            raise InputError(
                f"{where} is {array.dtype.name}, the model takes {self.dtype.name}; convert it with "
                f".astype({self.dtype.name!r})"
            )
        if array.ndim != len(self.shape) or any(
            isinstance(n, int) and n != m for n, m in zip(self.shape, array.shape, strict=True)
        ):
            raise InputError(f"{where} has shape {list(array.shape)}, the model takes {self.text}")
        if not values:
            return
        if self.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{where} holds NaN or infinity as {self.dtype.name}; repair the sample or leave it out")
        if (
            self.below is not None
            and array.size
            and not (-self.below <= int(array.min()) and int(array.max()) < self.below)
        ):
            raise InputError(
                f"{where} holds {int(array.min())} .. {int(array.max())}, but indexes a table of {self.below} rows"
            )


class Source(ABC):
    """Samples that can be iterated repeatedly, in a fixed order."""

    name: str
    """The description for a run's summary."""
    inputs: tuple[InputSpec, ...]
    preprocess: str | None = None
    """How images became inputs, where images were read."""

    @cached_property
    def notes(self) -> list[str]:
        """Conversions in the samples read so far, one sentence each."""
        return []

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def label(self, index: int) -> str:
        """The name of a sample in messages."""

    @abstractmethod
    def _sample(self, index: int) -> Sample:
        """One sample before checks."""

    @abstractmethod
    def digest(self) -> str:
        """Hash of the samples, equal across processes; a resumed run must find the same."""

    def iterate(self, start: int = 0) -> Iterator[Sample]:
        """The checked samples from number ``start`` on."""
        for index in range(start, len(self)):
            yield checked(self._sample(index), self.inputs, self.label(index), self.notes)

    def chosen(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Some samples in order, with their numbers; other samples are not read, where they need not be."""
        if indices.step == 1:
            yield from zip(indices, self.iterate(indices.start), strict=False)
        else:
            for index in indices:
                yield index, next(self.iterate(index))

    def __iter__(self) -> Iterator[Sample]:
        return self.iterate()


def checked(
    sample: Any, inputs: Sequence[InputSpec], label: str, notes: list[str] | None = None, *, values: bool = True
) -> Sample:
    """The sample as arrays of the model's types; an InputError if it does not fit the model's inputs.

    Conversions are added to ``notes``. Without ``values`` only names, types and shapes are checked, and the sample is
    returned unchanged.
    """
    sample = by_name(sample, inputs, label)
    names = [spec.name for spec in inputs]
    for name in names:
        if name not in sample:
            given = ", ".join(map(str, sample)) or "nothing"
            raise InputError(
                f"calibration {label}: input {name!r} is missing; it holds {given}; the model takes {', '.join(names)}"
            )
    for name in sample:
        if name not in names:
            raise InputError(f"calibration {label}: the model has no input {name!r}; it takes {', '.join(names)}")
    arrays: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        try:
            raw = np.asarray(sample[spec.name])
        except (TypeError, ValueError) as error:
            raise InputError(
                f"calibration {label}: input {spec.name!r} is no array: {str(error).splitlines()[0]}"
            ) from error
        array = spec.cast(raw) if values else raw
        spec.check(array, label, values=values)
        if values:
            arrays[spec.name] = np.ascontiguousarray(array).reshape(array.shape)
        note = f"input {spec.name!r}: {raw.dtype.name} samples are cast to {spec.dtype.name}"
        if notes is not None and raw.dtype.name != spec.dtype.name and note not in notes:
            notes.append(note)
    return arrays if values else sample


class Listed(Source):
    """Samples in memory: a list of mappings, or the samples of an iterator or an onnxruntime-style data reader."""

    def __init__(
        self, samples: Iterable[Any], inputs: Sequence[InputSpec], *, limit: int | None, name: str = "samples"
    ) -> None:
        self.inputs = tuple(inputs)
        self._held = [
            checked(s, self.inputs, f"sample {i}", self.notes) for i, s in enumerate(itertools.islice(samples, limit))
        ]
        self.name = f"{len(self._held)} {name}"
        if not self._held:
            raise InputError("calibration: there is no sample; give at least one mapping of input names to arrays")

    def __len__(self) -> int:
        return len(self._held)

    def label(self, index: int) -> str:
        """Number of the sample."""
        return f"sample {index}"

    def _sample(self, index: int) -> Sample:
        return self._held[index]

    def digest(self) -> str:
        """Hash of names and contents."""
        return digest_of(self._held)


class Lazy(Source):
    """An iterable that creates its samples anew in every walk (a data loader): they never stay in memory."""

    def __init__(
        self, samples: Iterable[Any], inputs: Sequence[InputSpec], *, length: int, limit: int | None, name: str = ""
    ) -> None:
        self.inputs = tuple(inputs)
        self._samples = samples
        self._length = length if limit is None else min(limit, length)
        self.name = f"{self._length} samples of {name or type(samples).__name__}"
        if not self._length:
            raise InputError("calibration: there is no sample; give at least one mapping of input names to arrays")
        checked(next(iter(samples), None), self.inputs, self.label(0), self.notes)

    def __len__(self) -> int:
        return self._length

    def label(self, index: int) -> str:
        """Number of the sample."""
        return f"sample {index}"

    def _sample(self, index: int) -> Sample:
        return next(self.iterate(index))

    def iterate(self, start: int = 0) -> Iterator[Sample]:
        """The checked samples from number ``start`` on."""
        count, held, numbers = 0, self._samples, range(start, self._length)
        rest: Iterator[Any] = itertools.islice(held, start, self._length)
        if isinstance(held, Sequence):
            rest = map(held.__getitem__, numbers)
        for index, sample in enumerate(rest, start=start):
            count += 1
            yield checked(sample, self.inputs, self.label(index), self.notes)
        if start + count < self._length:
            raise InputError(
                f"calibration: the data gave {start + count} samples in this walk, {self._length} before; it must "
                f"give the same ones"
            )

    def chosen(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """See Source. An iterable has to make the samples between as well."""
        if isinstance(self._samples, Sequence):
            return super().chosen(indices)
        walk = zip(range(indices.start, indices.stop), self.iterate(indices.start), strict=False)
        return itertools.islice(walk, 0, None, indices.step)

    def digest(self) -> str:
        """Hash of names and contents."""
        return digest_of(self)


def digest_of(samples: Iterable[Sample]) -> str:
    """Hash of names, types, shapes and contents."""
    held = hashlib.sha256()
    for sample in samples:
        for name, array in sorted(sample.items()):
            held.update(f"{name} {array.dtype.str} {array.shape};".encode())
            held.update(np.ascontiguousarray(array).tobytes())
    return held.hexdigest()
