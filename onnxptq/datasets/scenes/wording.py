"""Words for attributes, places and relations."""

from __future__ import annotations

from numpy.random import RandomState

from onnxptq.datasets.scenes.attributes import Attributes, pick

_NOUN = {
    "circle": ("circle", "circle", "circle", "disc", "disk"),
    "square": ("square", "square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "ring": ("ring", "ring", "donut"),
    "cross": ("cross", "cross", "plus sign"),
    "hexagon": ("hexagon",),
    "heart": ("heart",),
    "crescent": ("crescent", "crescent", "moon"),
    "diamond": ("diamond", "diamond", "rhombus"),
}
_ANY = ("object", "thing", "shape", "one")
_COLOR = {
    "red": ("red",),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "cyan": ("cyan", "cyan", "turquoise"),
    "blue": ("blue",),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink",),
    "brown": ("brown",),
    "white": ("white",),
    "black": ("black",),
}
_SIZE = {"small": ("small", "small", "little", "tiny"), "large": ("large", "big", "big", "huge")}
_PATTERN = {
    "solid": ("solid", "plain"),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered", "checked"),
}
WITH_PATTERN = {
    "solid": ("with no pattern", "without pattern"),
    "striped": ("with stripes",),
    "dotted": ("with dots", "with spots"),
    "checkered": ("with checks", "with a checkered pattern"),
}
ORDINALS = {2: "second", 3: "third", 4: "fourth"}
RELATIONS = {
    "left": ("left of", "to the left of", "on the left of"),
    "right": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath", "lower than"),
}
SIDES = {
    "left": (("left {}", "leftmost {}", "far left {}", "{} on the left", "{} on the far left", "{} left"), "on the "
    "left side"),
    "right": (("right {}", "rightmost {}", "far right {}", "{} on the right", "{} on the far right", "{} "
    "right"), "on the right side"),
    "top": (("top {}", "highest {}", "topmost {}", "{} at the top", "upper {}", "{} on top"), "at the top"),
    "bottom": (("bottom {}", "lowest {}", "{} at the bottom", "lower {}", "{} on the bottom"), "at the bottom"),
    "center": (("center {}", "middle {}", "{} in the middle", "{} in the center", "central {}"), "in the middle"),
}  # fmt: skip
# words of the generator that BERT's vocabulary splits
_PIECES = {
    "leftmost": 2,
    "rightmost": 2,
    "topmost": 2,
    "checkered": 2,
    "hexagon": 3,
    "donut": 2,
    "rhombus": 3,
    "cyan": 2,
    "farthest": 2,
}


def count_pieces(text: str) -> int:
    """Number of BERT WordPiece tokens of a generated expression."""
    return sum(_PIECES.get(word, 1) for word in text.replace(",", " ,").split())


def noun_phrase(rng: RandomState, attrs: Attributes, with_clause: bool = True) -> str:
    """Words for an attribute filter, without article."""
    pos = {a: v for a, v, wanted in attrs if wanted}
    noun = pick(rng, _NOUN[pos["shape"]] if "shape" in pos else _ANY)
    front, tail = [], []
    if "size" in pos:
        front.append(pick(rng, _SIZE[pos["size"]]))
    middle = []
    if "color" in pos:
        middle.append(pick(rng, _COLOR[pos["color"]]))
    if "pattern" in pos:
        if with_clause and rng.rand() < 0.3:
            tail.append(pick(rng, WITH_PATTERN[pos["pattern"]]))
        else:
            middle.append(pick(rng, _PATTERN[pos["pattern"]]))
    if len(middle) == 2 and rng.rand() < 0.5:
        middle.reverse()
    for a, v, wanted in attrs:
        if not wanted:
            word = "a " + v if a == "shape" else v
            ways = ("that is not {}", "which is not {}", "that is not {}" if a == "shape" else "but not {}")
            tail.append(pick(rng, ways).format(word))
    return " ".join([*front, *middle, noun, *tail])
