"""Tokenise texts with response spans into token ids and a response mask, exactly as inference would see them.

At inference the prompt is tokenised as a whole, and the response follows. Therefore a text, too, is tokenised once as a
whole, and the mask follows from the tokenizer's own offsets; a piece tokenised by itself would get what tokenizers put
at the beginning of a text (SentencePiece's space). Only if a token would straddle the border between prompt and
response, or if the prompt alone would be tokenised differently, the text is cut there, and the response continues the
prompt's tokens.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from s2l_ray.data.turns import TrainedText

_ANCHORS = ("\n", "a", "0", ".", "\u4e2d")


@dataclass(frozen=True)
class Tokenised:
    input_ids: list[int]
    """(L,)"""
    response_mask: list[bool]
    """(L,) True for tokens of the response, including its end token."""


@dataclass(frozen=True)
class _Piece:
    text: str
    start: int
    """Offset in the whole text (characters)."""
    before: str
    """Character before the piece, if any."""
    is_plain: bool = False
    """Whether added tokens in it are ordinary text."""


class Encoder:
    """Tokenises texts with responses.

    Args:
        tokenizer: a `transformers` tokenizer, fast or not.
        special: matches the texts of special tokens, across which no other token reaches.
        prefix: ids that precede every text (BOS, if the style does not write its own).
    """

    def __init__(self, tokenizer: Any, special: re.Pattern[str], prefix: Sequence[int] = ()) -> None:
        self._tokenizer, self._special, self._prefix = tokenizer, special, list(prefix)
        self._known: dict[str, list[int]] = {}
        self._fast = getattr(tokenizer, "is_fast", False) and hasattr(tokenizer, "backend_tokenizer")
        self._anchors = self._find_anchors()

    def __call__(self, texts: Sequence[TrainedText]) -> list[list[Tokenised]]:
        """Tokenise each text into one sequence, or into one per response if the responses cannot share one."""
        if not self._fast:
            return [self._piecewise(text) for text in texts]
        encodings = self._tokenizer.backend_tokenizer.encode_batch([t.text for t in texts], add_special_tokens=False)
        out = []
        for text, encoding in zip(texts, encodings, strict=True):
            spans = None if text.plain else self._token_spans(text, encoding)
            out.append(self._piecewise(text) if spans is None else [self._masked(encoding.ids, spans)])
        return out

    def prompt(self, text: TrainedText) -> list[int]:
        """Return the ids of the text before the last response."""
        start = text.responses[-1][0]
        plain = tuple(span for span in text.plain if span[1] <= start)
        return self._cut(TrainedText(text.text[:start], (), plain), ()).input_ids

    @property
    def eos_token_id(self) -> int:
        return int(self._tokenizer.eos_token_id)

    def _masked(self, ids: list[int], spans: Sequence[tuple[int, int]]) -> Tokenised:
        mask = [False] * (len(self._prefix) + len(ids))
        for start, end in spans:
            start, end = start + len(self._prefix), end + len(self._prefix)
            mask[start:end] = [True] * (end - start)
        return Tokenised(self._prefix + ids, mask)

    def _piecewise(self, text: TrainedText) -> list[Tokenised]:
        """Cut at every border; responses share a sequence if that gives the same tokens as the text as a whole."""
        together = self._cut(text, text.responses)
        if len(text.responses) == 1:
            return [together]
        whole = self._prefix + [i for ids, _ in self._encode(_pieces(text, ())) for i in ids]
        if together.input_ids == whole:
            return [together]
        return [self._cut(TrainedText(text.text[: span[1]], (span,), text.plain), (span,)) for span in text.responses]

    def _cut(self, text: TrainedText, responses: Sequence[tuple[int, int]]) -> Tokenised:
        ids, mask = list(self._prefix), [False] * len(self._prefix)
        for piece_ids, piece in self._encode(_pieces(text, responses)):
            ids += piece_ids
            inside = any(start <= piece.start < end for start, end in responses)
            mask += [inside] * len(piece_ids)
        return Tokenised(ids, mask)

    def _encode(self, pieces: Sequence[_Piece]) -> list[tuple[list[int], _Piece]]:
        return [(self._ids(piece.text, piece.is_plain, piece.before), piece) for piece in pieces]

    def _ids(self, text: str, is_plain: bool, before: str) -> list[int]:
        """Return the ids of a piece, without what tokenizers put at the beginning of a text if it continues one."""
        for anchor in (before, *self._anchors) if before and self._anchors else ():
            anchor_ids = self._tokenise(anchor, is_plain)
            ids = self._tokenise(anchor + text, is_plain)
            if ids[: len(anchor_ids)] == anchor_ids:
                return ids[len(anchor_ids) :]
        return self._tokenise(text, is_plain)

    def _tokenise(self, text: str, is_plain: bool) -> list[int]:
        if not is_plain:
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        # Use only the model's own vocabulary, without added tokens, special or not.
        if not self._fast:
            return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
        backend = self._tokenizer.backend_tokenizer
        text = backend.normalizer.normalize_str(text) if backend.normalizer is not None else text
        words = (
            [text] if backend.pre_tokenizer is None else [w for w, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        )
        return [token.id for word in words for token in backend.model.tokenize(word)]

    def _find_anchors(self) -> list[str]:
        """Return texts after which a piece is tokenised as a continuation; none if texts get nothing at their start."""
        alone = self._tokenise("b", False)
        found = []
        for anchor in _ANCHORS:
            anchor_ids, ids = self._tokenise(anchor, False), self._tokenise(anchor + "b", False)
            if ids[: len(anchor_ids)] == anchor_ids and ids[len(anchor_ids) :] != alone:
                found.append(anchor)
        return found

    def _token_spans(self, text: TrainedText, encoding: Any) -> list[tuple[int, int]] | None:
        """Return token positions [start, end) of the responses; None if a border may not lie between two tokens."""
        spans = []
        for start, end in text.responses:
            first = _first_token(text.text, start, end, encoding)
            last = encoding.char_to_token(end - 1)
            if first is None or last is None or encoding.token_to_chars(last)[1] != end:
                return None
            if not self._is_same_alone(text.text, start, encoding.ids, first):
                return None
            spans.append((first, last + 1))
        return spans

    def _is_same_alone(self, text: str, start: int, ids: list[int], first: int) -> bool:
        """Whether the prompt has the same tokens when it is tokenised without the response.

        Merges never reach across a border between tokens, but pre-tokenizers look ahead (`\\s+(?!\\S)`), so several
        white-space characters at the border may become different tokens when nothing follows. Nothing reaches across
        the last special token.
        """
        if start == 0 or not text[start - 1].isspace():
            return True
        if not (text[start].isspace() or (start > 1 and text[start - 2].isspace())):
            return True
        begin = 0
        for token in self._special.finditer(text, max(0, start - 100), start):
            begin = token.end()
        if not begin:
            return False
        window = text[begin:start]
        if window not in self._known:
            self._known[window] = self._ids(window, is_plain=False, before=text[begin - 1])
        known = self._known[window]
        return ids[first - len(known) : first] == known


def _first_token(text: str, start: int, end: int, encoding: Any) -> int | None:
    """Return the token that begins at `start`; None if it is not certain that one does."""
    if start == 0:
        return 0
    at = start
    # Byte-level tokenizers report tokens without their leading space.
    while (token := encoding.char_to_token(at)) is None and at + 1 < end and text[at].isspace():
        at += 1
    if token is None:
        return None
    first: int = token
    before = encoding.char_to_token(start - 1)
    if at > start:
        # The space belongs to this token, unless a token of only spaces precedes it.
        return first if before is not None and before == first - 1 else None
    if before is None and text[start - 1].isspace():  # a space of the prompt that may belong to this token
        return None
    return first if encoding.token_to_chars(first)[0] == start else None


def _pieces(text: TrainedText, responses: Sequence[tuple[int, int]]) -> list[_Piece]:
    """Cut the text at the borders of the responses and around control tokens that are ordinary text."""
    cuts = {0, len(text.text), *(at for span in (*responses, *text.plain) for at in span)}
    borders = sorted(cuts)
    plain = {start for start, _ in text.plain}
    whole = text.text
    return [_Piece(whole[a:b], a, whole[max(0, a - 1) : a], a in plain) for a, b in itertools.pairwise(borders)]
