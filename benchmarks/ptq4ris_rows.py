"""The rows of the tables of ``benchmarks.ptq4ris``: recipes with settings."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """A recipe with settings."""

    recipe: str
    settings: dict[str, str] = field(default_factory=dict)
    include: tuple[str, ...] = ()

    def at(self, bits: str) -> dict[str, str]:
        """The settings at a width: ``A`` is that of the activations."""
        return {key: value.replace("A", bits.partition("a")[2]) for key, value in self.settings.items()}


def _parts(visual: bool, text: bool, rest: bool) -> Row:
    searched = {"visual": visual, "text": text, "rest": rest}
    return Row("ptq4ris", {name: "rtn" for name, kept in searched.items() if not kept})


def _text(**settings: str) -> Row:
    return Row("ptq4ris", {"visual": "float", "rest": "float", **settings})


NAMES = ("rtn", "ptq4vit", "repq-vit", "ptq4ris", "auto")
METHODS = {
    f"{name}{title}": Row(name, {"conv_input.bits": bits})
    for title, bits in (("", "A"), (", convolutions 8", "8"))
    for name in NAMES
}
"""Every method with the inputs of convolutions as wide as the others, and in 8 bits: the papers do not say which."""
PARTS = {
    "extrema everywhere": _parts(False, False, False),
    "fusion and decoder searched": _parts(False, False, True),
    "DRQ": _parts(True, False, False),
    "RORQ": _parts(False, True, False),
    "DRQ and RORQ": _parts(True, True, False),
    "all (ptq4ris)": Row("ptq4ris"),
}
OUTLIERS = {
    "extrema (rtn)": _text(text="rtn"),
    "per channel": _text(text="channel"),
    "mean": _text(outliers="mean"),
    "median + 3 MAD": _text(outliers="median+mad"),
    "99 % confidence": _text(outliers="confidence"),
    "mean + 3 SD": _text(),
    "mean + 3 SD, extrema of the groups": _text(ranges="minmax"),
}
OPTIONS = {
    "ptq4ris": Row("ptq4ris"),
    "errors not weighted": Row("ptq4ris", {"metric": "mse"}),
    "bare split": Row("ptq4ris", {"regions": "bare"}),
    "split searched by the published sum": Row("ptq4ris", {"regions": "sum"}),
    "GELU's scales a power of two apart": Row("ptq4ris", {"aligned": "on"}),
    "patch embedding's weight coded": Row("ptq4ris", include=(r"patch_embed.*:weight$",)),
    "fusion's errors to the power 2.4": Row("ptq4ris", {"fusion": "2.4"}),
    "one scale a weight in the image encoder": Row("ptq4ris", {"weight_scales": "released"}),
    "decoder's inputs by channel": Row("ptq4ris", {"decoder": "channel"}),
    "decoder's inputs in float": Row("ptq4ris", {"decoder": "float"}),
}
TABLES = {"methods": METHODS, "parts": PARTS, "outliers": OUTLIERS, "options": OPTIONS}
