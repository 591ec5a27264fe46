"""BERT's uncased WordPiece tokenizer over an explicit vocabulary file, without a dependency.

The zoo ships a subset of the bert-base-uncased vocabulary, so token ids are line numbers of that file; the full
vocabulary is read by the same class. The package tokenizers is not used: `onnxptq demo --ris` and calibration on
`zoo:lavt-mini` need this in an installation without extras.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxptq.errors import InputError
from onnxptq.files import read_text, reading

_LONGEST_WORD = 100  # BERT's limit: a longer word is unknown


class WordPiece:
    """Sentences to token ids: [CLS] pieces [SEP], padded with [PAD]."""

    def __init__(self, vocab: Sequence[str], max_tokens: int = 20) -> None:
        """``vocab`` in id order; sentences are cut so that ``max_tokens`` ids hold them."""
        self.vocab = list(vocab)
        self.ids = {token: i for i, token in enumerate(self.vocab)}
        self.max_tokens = max_tokens
        missing = [token for token in ("[CLS]", "[SEP]", "[UNK]", "[PAD]") if token not in self.ids]
        if missing:
            raise InputError(
                f"vocabulary of {len(self.vocab)} tokens lacks {missing[0]}: give a BERT vocab.txt, one token a line"
            )
        self._cls, self._sep, self.pad = (self.ids[t] for t in ("[CLS]", "[SEP]", "[PAD]"))
        self._cache: dict[str, list[str]] = {}

    @classmethod
    def load(cls, path: str | Path, max_tokens: int = 20) -> WordPiece:
        """Read a vocabulary file, one token a line."""
        with reading(f"vocabulary {path}", "cannot be read as a BERT vocab.txt, one token a line"):
            return cls(read_text(Path(path)).splitlines(), max_tokens)

    def tokenize(self, text: str) -> list[str]:
        """Word pieces of a sentence."""
        pieces: list[str] = []
        for word in _words(text):
            if word not in self._cache:
                self._cache[word] = self._split(word)
            pieces += self._cache[word]
        return pieces

    def encode(self, text: str) -> NDArray[np.int64]:
        """Ids [max_tokens] of one sentence, cut to fit and padded."""
        ids = [self.ids[piece] for piece in self.tokenize(text)][: self.max_tokens - 2]
        row = np.full(self.max_tokens, self.pad, np.int64)
        row[: len(ids) + 2] = [self._cls, *ids, self._sep]
        return row

    def batch(self, texts: Iterable[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and attention mask, both [n, max_tokens]."""
        ids = np.stack([self.encode(text) for text in texts])
        return ids, (ids != self.pad).astype(np.int64)

    def _split(self, word: str) -> list[str]:
        """Greedy longest-match-first pieces of one word; [UNK] if some part has none."""
        if len(word) > _LONGEST_WORD:
            return ["[UNK]"]
        pieces, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.ids:
                    break
            else:
                return ["[UNK]"]
            pieces.append(piece)
            start = end
        return pieces


def _words(text: str) -> list[str]:
    """BERT's basic tokenizer: lower case, no accents, punctuation and CJK characters stand alone."""
    out: list[str] = []
    open_word = False
    for char in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(char)
        if category == "Mn" or char == "\ufffd" or (category in ("Cc", "Cf", "Cn", "Co") and char not in "\t\n\r"):
            continue
        if char.isspace():
            open_word = False
        elif _stands_alone(char, category):
            out.append(char)
            open_word = False
        elif open_word:
            out[-1] += char
        else:
            out.append(char)
            open_word = True
    return out


def _stands_alone(char: str, category: str) -> bool:
    code = ord(char)
    ascii_symbol = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    cjk = 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x2FA1F
    return ascii_symbol or category.startswith("P") or cjk
