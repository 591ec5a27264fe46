"""Codes and values of every scheme, as fixed by version 1 of the domain.

After an intended change: ``python -m tests.ops.test_golden > tests/golden/codes.txt``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from onnxptq.ops import schemes

GOLDEN = Path(__file__).parents[1] / "golden" / "codes.txt"
X = np.array(
    [
        -np.inf,
        -7.5,
        -1.0,
        -0.17,
        -1e-3,
        0.0,
        1e-30,
        0.001,
        0.03,
        0.0625,
        0.125,
        0.3,
        0.5,
        0.51,
        1.0,
        3.0,
        40.0,
        np.inf,
        np.nan,
    ],
    np.float32,
)
RANGES = ((0.0, 1.0), (-0.17, 6.0))


def lines() -> Iterator[str]:
    for name, scheme in schemes().items():
        for bits in range(2, 9):
            for low, high in RANGES:
                candidates = list(scheme.grid(low, high, bits))
                p = candidates[len(candidates) // 3]
                codes = " ".join(str(code) for code in scheme.encode(X, p).tolist())
                values = " ".join(np.float32(v).tobytes()[::-1].hex() for v in scheme.fake(X, p))
                yield f"{name} {bits} [{low}, {high}]: {codes} | {values}"


def test_codes_are_what_they_were() -> None:
    assert GOLDEN.read_text().splitlines() == list(lines())


if __name__ == "__main__":
    print("\n".join(lines()))
