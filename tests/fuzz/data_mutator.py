"""Seeded mutations of data: trees as JSON and TOML hold them, and bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    99,
    1.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    2**31,
    2**63,
    2**64,
    10**30,
    "",
    "x",
    "minmax",
    "\x00",
    "\x1b[31m",
    "../../x",
    "/etc/passwd",
    "(",
    "x" * 3000,
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    [1, "a"],
    [2**62] * 4,
)


def mutated(tree: Any, rng: random.Random) -> Any:
    """A copy of the tree with one to three places changed."""
    copy = json.loads(json.dumps(tree))
    for _ in range(rng.randint(1, 3)):
        places = list(_places(copy))
        if not places:
            return _odd(rng)
        holder, key = rng.choice(places)
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(("nope", "", str(key) + "s", "bits", "options"))] = _odd(rng)
            case 2 if isinstance(holder, list):
                holder.insert(rng.randrange(len(holder) + 1), holder[key])
            case 3:
                other, at = rng.choice(places)
                holder[key] = json.loads(json.dumps(other[at], default=str)) if _alive(other, at) else _odd(rng)
            case 4 if isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
                holder[key] = holder[key] * rng.choice((-1, 2, 1000, 1e9)) + rng.choice((0, 1, 0.5))
            case _:
                holder[key] = _odd(rng)
    return copy


def _odd(rng: random.Random) -> Any:
    return deepcopy(rng.choice(ODD))


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(pairs):
        yield tree, key
        yield from _places(value)


def _alive(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def toml(tree: Any) -> str:
    """A tree of the mutator in TOML; None, which TOML does not have, as a word that is no value."""
    return "\n".join(f"{json.dumps(key)} = {_value(value)}" for key, value in tree.items())


def _value(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {_value(held)}" for key, held in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case float():
            return repr(value)
        case None:
            return "null"
    return json.dumps(value)


def spoiled(data: bytes, rng: random.Random) -> bytes:
    """The bytes with some flipped, cut, doubled or put in."""
    held = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(held) + 1)
        match rng.randrange(5):
            case 0:
                del held[at:]
            case 1:
                del held[at : at + rng.randint(1, 16)]
            case 2:
                held[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
            case 3:
                held[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"9999"))
            case _ if at < len(held):
                held[at] ^= 1 << rng.randrange(8)
    return bytes(held)
