"""Records of finished measurements, one JSON file each, so that an interrupted table can continue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnxptq.graph.save import write_atomic


def read_record(path: Path) -> dict[str, Any]:
    """A record; {} where there is none yet."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write_record(path: Path, record: Any) -> None:
    """Write a record, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())
