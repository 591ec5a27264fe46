"""segment_anything's model classes without its `__init__`, whose predictors import torchvision."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types

from onnxptq.errors import InputError


def modeling() -> types.ModuleType:
    """The module `segment_anything.modeling`."""
    if "segment_anything" not in sys.modules:
        spec = importlib.util.find_spec("segment_anything")
        if spec is None or spec.submodule_search_locations is None:
            raise InputError("the package segment-anything is not installed: pip install 'onnxptq[models]'")
        package = types.ModuleType("segment_anything")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["segment_anything"] = package
    return importlib.import_module("segment_anything.modeling")
