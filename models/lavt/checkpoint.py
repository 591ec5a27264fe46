"""LAVT checkpoints in the layouts of the official release: `lavt` (BERT apart) and `lavt_one` (BERT inside)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from onnxptq.errors import InputError
from onnxptq.models.lavt.config import LavtConfig
from onnxptq.models.lavt.model import LAVT
from onnxptq.models.state import read, weights

_DERIVED = ("num_batches_tracked", "relative_position_index", "position_ids")
_UNUSED = ("text_encoder.pooler.",)


def load_lavt(
    checkpoint: str | Path,
    *,
    image_size: int = 480,
    max_tokens: int = 20,
    text_heads: int | None = None,
    fusion_heads: int = 1,
) -> LAVT:
    """The model of a checkpoint file, its sizes read off the weights.

    The weights do not show the number of heads of the text encoder (64 channels each unless given) and of the fusion
    (`--mha` of the release). Any image size will do: Swin's windows do not depend on it.
    """
    if image_size < 32:
        raise InputError(f"image size {image_size}: give 32 or more")
    state = official_state(checkpoint)
    try:
        config = infer(
            state, image_size=image_size, max_tokens=max_tokens, text_heads=text_heads, fusion_heads=fusion_heads
        )
    except KeyError as error:
        raise InputError(f"{checkpoint}: not a LAVT checkpoint, parameter {error} is missing") from None
    model = LAVT(config)
    target = model.state_dict()
    unknown = [n for n in state if n not in target and not n.endswith(_DERIVED)]
    missing = [n for n in target if n not in state and not n.endswith(_DERIVED)]
    wrong = [n for n, v in state.items() if n in target and not n.endswith(_DERIVED) and v.shape != target[n].shape]
    for names, what in ((missing, "lacks"), (unknown, "has the unknown"), (wrong, "has another shape for")):
        if names:
            raise InputError(
                f"checkpoint {checkpoint} {what} parameter {names[0]} ({len(names)} such): not a LAVT model of its "
                f"sizes"
            )
    model.load_state_dict({n: v for n, v in state.items() if not n.endswith(_DERIVED)}, strict=False)
    return model.eval()


def official_state(checkpoint: str | Path) -> dict[str, Tensor]:
    """One flat state dict: `backbone.*`, `classifier.*`, `text_encoder.*`."""
    held = read(checkpoint)
    inner: Any = held.get("model", held)
    if not isinstance(inner, Mapping):
        raise InputError(f"checkpoint {checkpoint}: 'model' is a {type(inner).__name__}, not a state dict")
    state = weights({str(k): v for k, v in inner.items()})
    text: Any = held.get("bert_model")
    if isinstance(text, Mapping):
        state |= {f"text_encoder.{k}": v for k, v in weights({str(k): v for k, v in text.items()}).items()}
    if not any(name.startswith("text_encoder.") for name in state):
        raise InputError(f"checkpoint {checkpoint}: no text encoder, neither 'bert_model' nor text_encoder.*")
    return {name: value for name, value in state.items() if not name.startswith(_UNUSED)}


def infer(
    state: Mapping[str, Tensor],
    *,
    image_size: int,
    max_tokens: int = 20,
    text_heads: int | None = None,
    fusion_heads: int = 1,
) -> LavtConfig:
    """The sizes of the model with this state dict; a KeyError if it is no LAVT."""
    depths = _depths(state)
    tables = [state[f"backbone.layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(len(depths))]
    windows = [(isqrt(table.shape[0]) + 1) // 2 for table in tables]
    words = state["text_encoder.embeddings.word_embeddings.weight"]
    hidden = words.shape[1]
    text = {
        "vocab_size": words.shape[0],
        "hidden_size": hidden,
        "num_hidden_layers": 1 + _largest(state, r"text_encoder\.encoder\.layer\.(\d+)\."),
        "num_attention_heads": text_heads or max(1, hidden // 64),
        "intermediate_size": state["text_encoder.encoder.layer.0.intermediate.dense.weight"].shape[0],
        "max_position_embeddings": state["text_encoder.embeddings.position_embeddings.weight"].shape[0],
    }
    fc1 = [state[f"backbone.layers.{i}.blocks.0.mlp.fc1.weight"].shape for i in range(len(depths))]
    return LavtConfig(
        image_size=image_size,
        embed_dim=state["backbone.patch_embed.proj.weight"].shape[0],
        depths=depths,
        num_heads=tuple(table.shape[1] for table in tables),
        window=max(windows),
        mlp_ratio=tuple(wide / narrow for wide, narrow in fc1),
        fusion_heads=(fusion_heads,) * len(depths),
        fit_windows=min(windows) < max(windows),
        absolute_pos="backbone.absolute_pos_embed" in state,
        decoder_width=state["classifier.conv1_1.weight"].shape[1],
        text=text,
        max_tokens=max_tokens,
    )


def _depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    stages = 1 + _largest(state, r"backbone\.layers\.(\d+)\.")
    return tuple(1 + _largest(state, rf"backbone\.layers\.{i}\.blocks\.(\d+)\.") for i in range(stages))


def _largest(state: Mapping[str, Tensor], pattern: str) -> int:
    found = [int(match[1]) for name in state if (match := re.match(pattern, name))]
    if not found:
        raise KeyError(pattern.replace("\\", ""))
    return max(found)
