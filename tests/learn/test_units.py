"""Units of graphs with residual streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")

from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.learn.units import Parts, Unit
from onnxptq.structure import discover


def parts(path: Any) -> tuple[Parts, dict[str, str]]:
    model = canonicalise(load(path))
    structure = discover(model)
    layers = {name: one.output for name, one in (*structure.linears.items(), *structure.convs.items())}
    return Parts(model.to_proto(), layers), layers


@pytest.mark.parametrize("name", ["vit", "bert", "sam-decoder", "swin", "cnn"])
def test_every_layer_is_in_one_unit(name: str, minis: Callable[..., Any]) -> None:
    found, layers = parts(minis(name).path)
    for units in (found.single(), found.blocks()):
        members = [layer for unit in units for layer in unit.layers]
        assert sorted(members) == sorted(layers)
        assert all(unit.inputs for unit in units)
    assert [unit.layers for unit in found.single()] == [(name,) for name in layers]


def test_blocks_are_attention_and_mlp(minis: Callable[..., Any]) -> None:
    path = minis("vit").path
    found, _ = parts(path)
    attentions = discover(canonicalise(load(path))).attentions.values()
    for attention in attentions:
        block = next(unit for unit in found.blocks() if attention.o_linear in unit.layers)
        assert {attention.qk, attention.av} <= block.nodes
        assert len(block.layers) <= 4
    sizes = [len(unit.layers) for unit in found.blocks()]
    assert sum(size > 1 for size in sizes) >= 2 * len(attentions)


def test_a_unit_reads_only_what_comes_before(minis: Callable[..., Any]) -> None:
    path = minis("sam-decoder").path
    found, layers = parts(path)
    done: set[str] = set()
    inside = {output: name for name, output in layers.items()}
    for unit in found.blocks():
        assert not {inside[name] for name in unit.inputs if name in inside} - done
        done |= set(unit.layers)
    assert isinstance(unit, Unit)
