"""Runs the tokens stage on Ray: parts of examples → parts of tokens with the same numbers.

Memory: a task holds one part. The driver holds one row of statistics per part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.data.conversation import CHAT_COLUMN, unpack_table
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.encode import Tokenised
from s2l_ray.data.quarantine import QUARANTINE_SCHEMA, QuarantineLimitError, check_quarantine
from s2l_ray.data.render import Renderer, Style, training_text
from s2l_ray.data.token_parts import TOKEN_SCHEMA, to_examples
from s2l_ray.data.units import UnusableRow
from s2l_ray.execution.part_tasks import map_parts
from s2l_ray.lm.load import train_tokenizer
from s2l_ray.storage.folder import Storage


@dataclass(frozen=True)
class TokenParts:
    """What the stage wrote, and its statistics."""

    num_examples: int
    num_sequences: int
    """At least the number of examples: a chat may need one sequence for each of its responses."""
    num_quarantined: int
    num_cut: int
    """Number of examples truncated at `max_length`."""
    num_with_control_tokens: int
    """Number of examples whose text contains a control token, which the model sees as ordinary text."""
    num_tokens: int
    num_response_tokens: int
    sum_squared_lengths: int
    """Sum of the sequences' squared lengths, for attention's FLOPs."""
    max_length: int
    max_token_id: int
    style: Style
    fingerprint: str
    parts: list[dict[str, Any]]
    """[{part, rows, tokens, response_tokens, …}] in order; parts without rows are left out."""


@dataclass(frozen=True)
class SubsetFilter:
    """A table of selected examples, with `example_id` and `part`."""

    storage: Storage
    name: str

    def parts(self) -> list[int]:
        """The parts that contain any of them."""
        return [int(p) for p in np.unique(self.storage.read_table(self.name, columns=["part"])["part"].to_numpy())]

    def of_part(self, part: int) -> pa.Array:
        table = self.storage.read_table(self.name, columns=["example_id"], filters=[("part", "==", part)])
        return table["example_id"].combine_chunks()


class TokeniseTask:
    """Tokenises a part and writes it; returns one row of statistics."""

    def __init__(
        self,
        examples: Storage,
        out: Storage,
        tokenizer: Any,
        style: Style,
        max_length: int,
        options: Mapping[str, Any],
        chosen: SubsetFilter | None,
    ) -> None:
        self.examples, self.out, self.chosen = examples, out, chosen
        self._render = Renderer(tokenizer, style, max_length, **options)

    def __call__(self, part: int) -> dict[str, Any]:
        columns = ["example_id", "origin", "index", "source", "messages"]
        table = self.examples.read_table(part_name(part), columns, optional=[CHAT_COLUMN])
        if self.chosen is not None:
            table = table.filter(pc.is_in(table["example_id"], self.chosen.of_part(part)))
        before = (self._render.num_cut, self._render.num_with_control_tokens)
        rendered = self._render(*unpack_table(table))
        good: list[tuple[int, Tokenised]] = []
        bad: list[int] = []
        for i, tokens in enumerate(rendered):
            if isinstance(tokens, UnusableRow):
                bad.append(i)
            else:
                good += [(i, sequence) for sequence in tokens]
        kept = pa.array([i for i, _ in good], pa.int64())
        out = pa.table(
            {
                "example_id": table["example_id"].take(kept),
                "source": table["source"].take(kept),
                "input_ids": pa.array([t.input_ids for _, t in good], pa.list_(pa.int32())),
                "response_mask": pa.array([t.response_mask for _, t in good], pa.list_(pa.bool_())),
            }
        ).cast(TOKEN_SCHEMA)
        self.out.sub("parts").write_table(part_name(part), out, compression="zstd")
        if bad:
            rows = table.take(pa.array(bad, pa.int64())).select(["origin", "index"])
            reasons = pa.array([str(rendered[i]) for i in bad])
            texts = pa.array([str(m)[:500] for m in table["messages"].take(pa.array(bad, pa.int64())).to_pylist()])
            quarantined = rows.append_column("reason", reasons).append_column("text", texts).cast(QUARANTINE_SCHEMA)
            self.out.sub("quarantine").write_table(part_name(part), quarantined)
        counts = {
            "examples": table.num_rows - len(bad),
            "cut": self._render.num_cut - before[0],
            "with_control_tokens": self._render.num_with_control_tokens - before[1],
        }
        return _statistics(part, out) | counts | {"written": self.out.take_written()}


def _statistics(part: int, table: pa.Table) -> dict[str, Any]:
    examples = to_examples(table)
    digest = hashlib.blake2b(digest_size=16)
    for array in (examples.ids, examples.offsets, examples.tokens, examples.mask):
        digest.update(array.tobytes())
    lengths = examples.lengths
    return {
        "part": part,
        "rows": len(examples),
        "tokens": int(lengths.sum()),
        "response_tokens": int(examples.mask.sum()),
        "sum_squared_lengths": int((lengths**2).sum()),
        "max_length": int(lengths.max(initial=0)),
        "max_token_id": int(examples.tokens.max(initial=0)),
        "fingerprint": digest.hexdigest(),
    }


def train_corpus_tokenizer(
    examples: Storage, parts: list[int], style: Style, vocab_size: int, max_examples: int, folder: str
) -> Any:
    """Train a tokenizer on the first examples by id, a random sample since ids are hashes; save it to `folder`
    (local)."""

    def texts() -> Iterator[str]:
        left = max_examples
        for part in parts:
            rows = examples.read_table(part_name(part), columns=["messages"])["messages"].to_pylist()[:left]
            for messages in rows:
                yield training_text(messages, style)
            left -= len(rows)
            if left <= 0:
                return

    tokenizer = train_tokenizer(texts(), vocab_size)
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_tokens(
    examples: Storage,
    corpus_parts: list[int],
    out: Storage,
    tokenizer: Any,
    style: Style,
    max_length: int,
    max_quarantined_share: float,
    parallelism: int,
    options: Mapping[str, Any] | None = None,
    chosen: SubsetFilter | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> TokenParts:
    """Tokenise every part once, or only the examples in `chosen`.

    Args:
        options: options of the Renderer: turns, date, arguments, end_of_turn.

    Raises:
        QuarantineLimitError: too many examples have no response token left within `max_length`.
    """
    for folder in ("parts", "quarantine"):
        out.delete_dir(folder)
    task = TokeniseTask(examples, out, tokenizer, style, max_length, options or {}, chosen)
    stats = map_parts(corpus_parts, task, parallelism, on_rows)
    for row in stats:
        out.note_written(row.pop("written"))
    parts = [s for s in stats if s["rows"]]
    num_examples = sum(s["examples"] for s in parts)
    num_quarantined = check_quarantine(out.sub("quarantine"), num_examples, max_quarantined_share)
    if num_examples == 0:
        raise QuarantineLimitError(
            "no example has a response token left, so there is nothing to train on; see the quarantine"
        )
    digest = hashlib.blake2b("".join(s["fingerprint"] for s in parts).encode(), digest_size=16)
    return TokenParts(
        num_examples=num_examples,
        num_sequences=sum(s["rows"] for s in parts),
        num_quarantined=num_quarantined,
        num_cut=sum(s["cut"] for s in stats),
        num_with_control_tokens=sum(s["with_control_tokens"] for s in stats),
        num_tokens=sum(s["tokens"] for s in parts),
        num_response_tokens=sum(s["response_tokens"] for s in parts),
        sum_squared_lengths=sum(s["sum_squared_lengths"] for s in parts),
        max_length=max((s["max_length"] for s in parts), default=0),
        max_token_id=max((s["max_token_id"] for s in parts), default=0),
        style=style,
        fingerprint=digest.hexdigest(),
        parts=parts,
    )
