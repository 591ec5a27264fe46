"""Sizes of a LAVT model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LavtConfig:
    """Everything `LAVT` needs; the defaults are the released model's."""

    image_size: int = 480
    embed_dim: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    window: int = 12
    mlp_ratio: tuple[float, ...] = (4.0, 4.0, 4.0, 4.0)
    fusion_heads: tuple[int, ...] = (1, 1, 1, 1)
    fit_windows: bool = (
        False  # windows no larger than the map, and no shift of a single window (the release pads and shifts)
    )
    absolute_pos: bool = False  # learned absolute position embedding after the patch embedding
    decoder_width: int | None = None  # None: half of the last stage's width
    text: Mapping[str, Any] = field(default_factory=dict)  # BertConfig overrides; empty: bert-base-uncased
    max_tokens: int = 20

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint's metadata."""
        return asdict(self) | {"text": dict(self.text)}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> LavtConfig:
        """The inverse of `to_dict`, lists as JSON has them allowed."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in d.items()}
        return cls(**values)
