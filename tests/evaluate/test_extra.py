from __future__ import annotations

import sys

import numpy as np
import pytest

from onnxptq.errors import InputError
from onnxptq.evaluate.average_precision import CocoAp
from onnxptq.evaluate.components import label
from onnxptq.evaluate.extra import extra
from onnxptq.evaluate.rectangles import around


def test_a_module_that_is_there() -> None:
    assert extra("json.decoder").JSONDecoder


@pytest.mark.parametrize(
    ("package", "modules", "use"),
    [
        ("pycocotools", ("pycocotools.mask",), CocoAp),
        ("scipy", ("scipy.ndimage",), lambda: label(np.ones((2, 2), bool))),
        ("shapely", ("shapely",), lambda: around(np.ones((2, 2), bool))),
    ],
)
def test_a_missing_package_is_one_line(
    package: str, modules: tuple[str, ...], use: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{package}, which is not installed: pip install 'onnxptq\[eval\]'"):
        use()  # type: ignore[operator]
