"""The NumPy references as operators of a session, through onnxruntime-extensions: slow, for debugging.

That package supports ops with a fixed list of inputs, one type each, and attributes that are single numbers or words.
The ops of this kind (the schemes' pairs and RowRange) are registered; the others run by their function bodies as in any
session.
"""

from __future__ import annotations

import functools
from typing import Any

from onnxptq.errors import InputError
from onnxptq.ops import DOMAIN, schemes, specs
from onnxptq.ops.spec import OpSpec

KINDS = ("float", "uint8", "int8")


def expressible() -> list[OpSpec]:
    """The ops that can be registered."""
    return [
        spec
        for spec in specs().values()
        if all(kind in KINDS for kind in (*spec.types, *spec.results))
        and not any(name.endswith("?") for name in spec.inputs)
        and not any(isinstance(default, (list, tuple)) for default in spec.attributes.values())
    ]


def _attribute_kind(name: str, default: object) -> str:
    words = {key for scheme in schemes().values() for key, value in scheme.attributes.items() if isinstance(value, str)}
    return "dt_string" if name in words or isinstance(default, str) else "dt_int64"


@functools.cache
def _define() -> str:
    """Register every expressible op, once in a process; return the path of the library that runs them."""
    try:
        import onnxruntime_extensions as extensions
    except ImportError as error:
        raise InputError(
            "executor 'python': onnxruntime-extensions is not installed; pip install 'onnxptq[extensions]'"
        ) from error
    kinds: Any = extensions.PyCustomOpDef
    for spec in expressible():
        extensions.onnx_op(
            op_type=f"{DOMAIN}::{spec.name}",
            inputs=[getattr(kinds, f"dt_{kind}") for kind in spec.types],
            outputs=[getattr(kinds, f"dt_{kind}") for kind in spec.results],
            attrs={name: getattr(kinds, _attribute_kind(name, default)) for name, default in spec.attributes.items()},
        )(spec.reference)
    return str(extensions.get_library_path())


def register(options: Any) -> None:
    """Let sessions of these SessionOptions run the references."""
    options.register_custom_ops_library(_define())
