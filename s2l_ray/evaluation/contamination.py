"""Finds test questions that occur in the training corpus, part by part.

Texts are compared word by word: lower case, only letters and digits. A question is flagged

- `exact`, if a training text has the same words, a stem such as "Let's write a program." at its end left out;
- `ngram`, if training texts have at least a given share of its 13-grams (after Brown et al. 2020,
  https://arxiv.org/abs/2005.14165, appendix C; a single shared 13-gram says little if questions follow templates);
- `template`, for information, if a training text is equal once numbers are masked.

Everything is vectorised over the bytes of many texts: about 10 seconds on one core for 10⁸ bytes. Memory: 16 bytes per
n-gram of the questions, and about 170 MB for the current chunk of the corpus.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from s2l_ray.evaluation.prompts import PROGRAM_STEM

NGRAM = 13
_CHUNK_BYTES = 1 << 21
_OVERLAP_BYTES = 1 << 12
"""Overlap of the pieces into which a text longer than a chunk is divided (bytes)."""
_BYTE_BASE = np.uint64(0x9E3779B97F4A7C15)
_WORD_BASE = np.uint64(0xD1342543DE82EF95)
_MASKED = np.uint64(0xA0761D6478BD642F)
"""The hash that replaces every number in templates."""

Hashes = np.ndarray
"""An array of uint64 hashes."""


def _word_bytes() -> np.ndarray:
    table = np.zeros(256, dtype=bool)
    table[[*b"0123456789abcdefghijklmnopqrstuvwxyz", *range(0x80, 0x100)]] = True
    return table


_IS_WORD = _word_bytes()
_IS_DIGIT = np.isin(np.arange(256), list(b"0123456789"))


@functools.lru_cache(maxsize=4)
def _powers(base: int, count: int) -> tuple[Hashes, Hashes]:
    """base^i and base^-i modulo 2^64 (an odd number has an inverse)."""
    both = []
    for factor in (base, pow(base, -1, 1 << 64)):
        powers = np.full(count, factor, dtype=np.uint64)
        powers[0] = 1
        both.append(np.multiply.accumulate(powers))
    return both[0], both[1]


def _powers_for(base: np.uint64, count: int) -> tuple[Hashes, Hashes]:
    size = 1 << max(10, (max(count, 1) - 1).bit_length())
    return _powers(int(base), size)


def _mixed(hashes: Hashes) -> Hashes:
    """Spreads every bit over all others (the finaliser of SplitMix64)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _ranges(values: Hashes, base: np.uint64, starts: np.ndarray, ends: np.ndarray) -> Hashes:
    """Polynomial hashes of the ranges [start, end) of a sequence, from its prefix sums."""
    powers, inverse = _powers_for(base, len(values) + 1)
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return _mixed((sums[ends] - sums[starts]) * inverse[starts] + (ends - starts).astype(np.uint64))


@dataclass(frozen=True)
class _Words:
    """The words of several texts."""

    hashes: Hashes
    """(W,) hashes of the words."""
    is_number: np.ndarray
    """(W,) bool: whether the word is a number."""
    bounds: np.ndarray
    """(D + 1,): the words of text i are those from bounds[i] up to bounds[i + 1]."""


def _words(texts: Sequence[bytes]) -> _Words:
    """Split texts, which are in lower case and UTF-8, into words."""
    data = np.frombuffer(b"".join(texts), dtype=np.uint8)
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)])
    is_word = np.zeros(len(data) + 1, dtype=bool)
    is_word[:-1] = _IS_WORD[data]
    begins = np.zeros(len(data) + 1, dtype=bool)  # where a text begins
    begins[offsets] = True
    before = np.concatenate([[False], is_word[:-1]])
    starts = np.flatnonzero(is_word & (~before | begins))
    ends = np.flatnonzero(before & (~is_word | begins))
    hashes = _ranges(data.astype(np.uint64) + np.uint64(1), _BYTE_BASE, starts, ends)
    is_number = _IS_DIGIT[data[starts]] & _IS_DIGIT[data[ends - 1]] if len(starts) else np.zeros(0, dtype=bool)
    return _Words(hashes, is_number, np.searchsorted(starts, offsets))


def _whole_texts(words: _Words) -> Hashes:
    """(D,) hashes of all words of each text."""
    return _ranges(words.hashes, _WORD_BASE, words.bounds[:-1], words.bounds[1:])


def _templates(words: _Words) -> Hashes:
    """(D,) hashes of the texts with every run of numbers (`3`, `1,250.5`) as one mask."""
    first = np.zeros(len(words.hashes) + 1, dtype=bool)
    first[words.bounds] = True
    follows = np.concatenate([[False], words.is_number[:-1]]) & ~first[:-1]
    kept = ~(words.is_number & follows)
    bounds = np.concatenate([[0], np.cumsum(kept)])[words.bounds]
    masked = np.where(words.is_number, _MASKED, words.hashes)[kept]
    return _ranges(masked, _WORD_BASE, bounds[:-1], bounds[1:])


def _ngrams(words: _Words, n: int) -> tuple[Hashes, np.ndarray]:
    """The n-grams within the texts: their hashes, and the index of each one's first word."""
    count = max(0, len(words.hashes) - n + 1)
    grams = np.zeros(count, dtype=np.uint64)
    for i in range(n):
        grams *= _WORD_BASE
        grams += words.hashes[i : i + count]
    text_of = np.repeat(np.arange(len(words.bounds) - 1), np.diff(words.bounds))  # (W,)
    begins = np.flatnonzero(text_of[:count] == text_of[n - 1 : n - 1 + count])
    return _mixed(grams[begins]), begins


class _Table:
    """Finds members of a small set of hashes among many."""

    def __init__(self, members: Hashes) -> None:
        self.members = np.unique(members)
        bits = min(26, max(12, (max(1, 16 * len(self.members)) - 1).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(1 << bits, dtype=bool)  # shows for most hashes that they are not members
        self._filter[self.members >> self._shift] = True

    def find(self, hashes: Hashes) -> np.ndarray:
        """Which members occur: sorted positions in `members`."""
        likely = hashes[self._filter[hashes >> self._shift]]
        if not len(likely) or not len(self.members):
            return np.zeros(0, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.members, likely), len(self.members) - 1)
        return np.unique(places[self.members[places] == likely])


@dataclass(frozen=True)
class Hits:
    """Which questions and n-grams occur in a part of the corpus."""

    ngrams: np.ndarray
    exact: np.ndarray
    templates: np.ndarray
    num_texts: int = 0

    @staticmethod
    def merged(parts: Iterable[Hits]) -> Hits:
        """All parts' hits; the order does not matter."""
        none = np.zeros(0, dtype=np.int64)
        every = [Hits(none, none, none), *parts]
        return Hits(
            np.unique(np.concatenate([hits.ngrams for hits in every])),
            np.unique(np.concatenate([hits.exact for hits in every])),
            np.unique(np.concatenate([hits.templates for hits in every])),
            sum(hits.num_texts for hits in every),
        )


@dataclass(frozen=True)
class Overlap:
    """How each question overlaps with the corpus; arrays (N,)."""

    exact: np.ndarray
    share: np.ndarray
    """Share of the question's n-grams that occur in training texts; NaN for questions with fewer than n words."""
    ngram: np.ndarray
    template: np.ndarray

    @property
    def contaminated(self) -> np.ndarray:
        return self.exact | self.ngram


class QuestionIndex:
    """An index of the questions, small enough to be sent to every worker.

    Args:
        texts: the questions as put to the target.
        n: length of the n-grams (words).
        stems: endings of training prompts that are not part of the question.
    """

    def __init__(self, texts: Sequence[str], n: int = NGRAM, stems: Sequence[str] = (PROGRAM_STEM,)) -> None:
        self.n, self.num_questions = n, len(texts)
        words = _words([_bytes_of(text) for text in texts])
        self._exact_of, self._template_of = _whole_texts(words), _templates(words)
        self._grams_of, begins = _ngrams(words, n)
        self._question_of_gram = np.searchsorted(words.bounds, begins, side="right") - 1
        self._is_empty = np.diff(words.bounds) == 0
        self._grams, self._exact, self._templates = map(
            _Table, (self._grams_of, self._exact_of[~self._is_empty], self._template_of[~self._is_empty])
        )
        ends = [_words([_bytes_of(stem)]) for stem in stems]
        self._stems = [(len(stem.hashes), int(_whole_texts(stem)[0])) for stem in ends if len(stem.hashes)]

    def scan(self, texts: Iterable[str]) -> Hits:
        """Search a part of the corpus, with prompts and responses as separate texts."""
        return Hits.merged(self._scan(chunk) for chunk in _chunks(texts))

    def _scan(self, texts: list[bytes]) -> Hits:
        words = _words(texts)
        grams, _ = _ngrams(words, self.n)
        whole = [_whole_texts(words), *self._without_stems(words)]
        return Hits(
            self._grams.find(grams),
            self._exact.find(np.concatenate(whole)),
            self._templates.find(_templates(words)),
            len(texts),
        )

    def _without_stems(self, words: _Words) -> Iterator[Hashes]:
        starts, ends = words.bounds[:-1], words.bounds[1:]
        for length, stem in self._stems:
            long = ends - starts > length
            begins, last = starts[long], ends[long]
            if len(begins):
                has_stem = _ranges(words.hashes, _WORD_BASE, last - length, last) == np.uint64(stem)
                yield _ranges(words.hashes, _WORD_BASE, begins[has_stem], last[has_stem] - length)

    def overlap(self, hits: Hits, share: float = 0.5) -> Overlap:
        """The flags of each question.

        Args:
            share: share of its n-grams from which a question counts as contaminated.
        """
        is_hit = np.isin(self._grams_of, self._grams.members[hits.ngrams])
        found = np.bincount(self._question_of_gram, weights=is_hit, minlength=self.num_questions)
        total = np.bincount(self._question_of_gram, minlength=self.num_questions)
        shares = np.where(total > 0, found / np.maximum(total, 1), np.nan)
        exact = np.isin(self._exact_of, self._exact.members[hits.exact]) & ~self._is_empty
        template = np.isin(self._template_of, self._templates.members[hits.templates]) & ~self._is_empty
        return Overlap(exact, shares, np.nan_to_num(shares) >= share if share > 0 else total > 0, template)


def _bytes_of(text: str) -> bytes:
    return text.lower().encode("utf-8", "replace")


def _chunks(texts: Iterable[str]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for text in texts:
        for piece in _pieces(_bytes_of(text)):
            chunk.append(piece)
            size += len(piece)
            if size >= _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def _pieces(text: bytes) -> Iterator[bytes]:
    if len(text) <= _CHUNK_BYTES:
        yield text
        return
    for begin in range(0, len(text), _CHUNK_BYTES - _OVERLAP_BYTES):
        yield text[begin : begin + _CHUNK_BYTES]
