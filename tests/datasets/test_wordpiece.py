"""The tokenizer: pieces, padding, cutting; equal to transformers' where that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxptq.datasets import zoo
from onnxptq.datasets.wordpiece import WordPiece
from onnxptq.errors import InputError

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "left", "##most", "the", "caf", "##e", ",", "日", "a", "##b"]
TEXTS = [
    "The leftmost, café",
    "日the",
    "left-most",
    "",
    "  a\tb ab ",
    "a" * 120,
    "x\x00y\u200b the",
    "LEFT!?",
    "the the the the the the",
]


@pytest.fixture
def tokenizer() -> WordPiece:
    return WordPiece(VOCAB, max_tokens=8)


def test_pieces(tokenizer: WordPiece) -> None:
    assert tokenizer.tokenize("The leftmost, café") == ["the", "left", "##most", ",", "caf", "##e"]
    assert tokenizer.tokenize("ab ba") == ["a", "##b", "[UNK]"]
    assert tokenizer.tokenize("日the") == ["日", "the"]


def test_ids_are_padded_and_cut(tokenizer: WordPiece) -> None:
    ids, mask = tokenizer.batch(["the left", "the " * 20])
    assert ids.tolist() == [[2, 6, 4, 3, 0, 0, 0, 0], [2, 6, 6, 6, 6, 6, 6, 3]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [1] * 8]


def test_equal_to_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    theirs = transformers.BertTokenizer(str(path))
    ours = WordPiece.load(path, max_tokens=8)
    for text in TEXTS:
        assert (
            ours.encode(text).tolist() == theirs(text, max_length=8, truncation=True, padding="max_length")["input_ids"]
        ), text


def test_every_zoo_token_is_one_line() -> None:
    vocab = zoo.tokenizer().vocab
    assert len(set(vocab)) == len(vocab) > 800
    assert vocab[0] == "[PAD]"


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt: cannot be read"):
        WordPiece.load(tmp_path / "none.txt")
    (tmp_path / "v.txt").write_text("[PAD]\nthe\n")
    with pytest.raises(InputError, match=r"lacks \[CLS\]"):
        WordPiece.load(tmp_path / "v.txt")
