"""Held-out sets: the corpus's own split and the user's files, tokenised for the target.

Memory: a held-out set is held whole, by the driver while it is made and by every target worker (10 bytes a token).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.config.corpus import CorpusConfig
from s2l_ray.data.conversation import CHAT_COLUMN, unpack, unpack_table
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ID_TYPE, Messages, array_to_ids, ids_to_array
from s2l_ray.data.formats import UnknownFormat, fits, rendered_as, tells_format
from s2l_ray.data.quarantine import QuarantineLimitError
from s2l_ray.data.read_task import first_rows, is_chat, read_rows, sample_format
from s2l_ray.data.render import Renderer
from s2l_ray.data.sources import ReadUnit
from s2l_ray.data.token_parts import TOKEN_SCHEMA
from s2l_ray.data.units import SourceError, UnusableRow
from s2l_ray.errors import UserError
from s2l_ray.execution.part_tasks import map_parts
from s2l_ray.storage.folder import Storage

SPLIT = "split"
"""Name of the set that is the corpus's own share."""


class HeldOutError(UserError):
    """A held-out set cannot be used; says which and why."""


@dataclass(frozen=True)
class HeldOutRows:
    """Examples of one set, sorted by id, each content once."""

    ids: np.ndarray
    """(N, 2) uint64."""
    sources: list[str]
    messages: list[Messages]
    tools: list[list[Any] | None] | None = None
    """Of each example; None: none has any."""

    def __len__(self) -> int:
        return len(self.sources)

    def without(self, dropped: np.ndarray) -> HeldOutRows:
        """dropped (N,) bool."""
        kept = np.flatnonzero(~dropped)
        tools = None if self.tools is None else [self.tools[i] for i in kept]
        return HeldOutRows(self.ids[kept], [self.sources[i] for i in kept], [self.messages[i] for i in kept], tools)


def read_split(corpus: Storage, parts: list[int]) -> HeldOutRows:
    """What the corpus stage held out."""
    columns = ["example_id", "source", "messages"]
    tables = [corpus.read_table(f"heldout/{part_name(p)}", columns, optional=[CHAT_COLUMN]) for p in parts]
    table = pa.concat_tables(tables, promote_options="default")
    return _unique(ids_to_array(table["example_id"]), table["source"].to_pylist(), *unpack_table(table))


def format_of(name: str, units: list[ReadUnit], config: CorpusConfig) -> str:
    """The format to render the set by, told by its first rows; see `formats.rendered_as`.

    Raises:
        HeldOutError: there are none, or none can be used.
    """
    config, format = _own_format(name, units, config)
    raws = first_rows(units, config.max_row_bytes)
    return rendered_as(format, any(is_chat(raw, config, format) for raw in raws))


def _own_format(name: str, units: list[ReadUnit], config: CorpusConfig) -> tuple[CorpusConfig, str]:
    """(how the set is read, its format): the corpus's own format where the set's columns fit it, else the set's."""
    try:
        columns = {column for raw in first_rows(units, config.max_row_bytes) if raw.row for column in raw.row}
        if not fits(config, columns) and tells_format(columns):
            config = config.model_copy(update={"template": None, "format": "auto"})
        return config, sample_format(units, config)
    except (SourceError, UnknownFormat, QuarantineLimitError) as error:
        raise HeldOutError(f"heldout.files.{name} cannot be used: {error}") from error


def read_files(name: str, units: list[ReadUnit], config: CorpusConfig) -> tuple[HeldOutRows, str, int]:
    """A set of the user's files → its examples, the format to render them by, and how many rows could not be used.

    Raises:
        HeldOutError: none can be used.
    """
    config, format = _own_format(name, units, config)
    good: list[dict[str, Any]] = []
    reasons: list[str] = []
    for record, _, reason in chain.from_iterable(read_rows(unit, config, format) for unit in units):
        if record is None:
            reasons.append(reason)
        else:
            good.append(record)
    if not good:
        raise HeldOutError(
            f"heldout.files.{name}: none of {len(reasons)} rows can be used ({reasons[0]}); correct them"
        )
    ids = ids_to_array(pa.array([r["id"] for r in good], ID_TYPE))
    chats = [unpack(r["messages"], r["chat"]) for r in good]
    rows = _unique(ids, [r["source"] for r in good], [c.turns for c in chats], [c.tools for c in chats])
    return rows, rendered_as(format, any(r["is_chat"] for r in good)), len(reasons)


def _unique(
    ids: np.ndarray, sources: list[str], messages: list[Messages], tools: list[list[Any] | None] | None = None
) -> HeldOutRows:
    _, first = np.unique(ids, axis=0, return_index=True)  # sorted by id
    mine = None if tools is None else [tools[i] for i in first]
    return HeldOutRows(ids[first], [sources[i] for i in first], [messages[i] for i in first], mine)


class FindInCorpus:
    """Which held-out ids are in a part of the corpus: an example that was trained on says nothing when evaluated."""

    def __init__(self, examples: Storage, ids: np.ndarray) -> None:
        self.examples, self.ids = examples, ids

    def __call__(self, part: int) -> dict[str, Any]:
        mine = ids_to_array(self.examples.read_table(part_name(part), columns=["example_id"])["example_id"])
        found = np.flatnonzero(_is_in(self.ids, mine))
        return {"part": part, "rows": len(mine), "found": found.tolist()}


def _is_in(ids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, 2), (M, 2) → (N,) bool."""
    as_rows = [np.ascontiguousarray(a).view([("high", "u8"), ("low", "u8")]).ravel() for a in (ids, others)]
    return np.isin(as_rows[0], as_rows[1])


def drop_trained_on(
    name: str, rows: HeldOutRows, examples: Storage, parts: list[int], parallelism: int, on_rows: Callable[[int], None]
) -> tuple[HeldOutRows, int]:
    """Leave out what is in the corpus; → (the rest, how many were left out).

    Raises:
        HeldOutError: nothing is left.
    """
    dropped = np.zeros(len(rows), dtype=bool)
    for found in map_parts(parts, FindInCorpus(examples, rows.ids), parallelism, on_rows):
        dropped[np.asarray(found["found"], dtype=np.int64)] = True
    if dropped.all():
        raise HeldOutError(
            f"heldout.files.{name}: all {len(rows)} examples are in the corpus too, so their losses would say nothing "
            "of others; give examples that are not in it, or set heldout.share instead"
        )
    return rows.without(dropped), int(dropped.sum())


def tokenise(name: str, rows: HeldOutRows, render: Renderer) -> tuple[pa.Table, int]:
    """→ (TOKEN_SCHEMA rows, one per sequence; how many examples cannot be rendered within the target's length).

    Raises:
        HeldOutError: none had one.
    """
    done = render(rows.messages, rows.tools)
    bad = [row for row in done if isinstance(row, UnusableRow)]
    sequences = [(i, tokens) for i, row in enumerate(done) if not isinstance(row, UnusableRow) for tokens in row]
    if not sequences:
        raise HeldOutError(
            f"held-out set {name!r}: none of {len(rows)} examples can be used ({bad[0]}); give others, or change "
            "how they are rendered"
        )
    table = pa.table(
        {
            "example_id": array_to_ids(rows.ids[[i for i, _ in sequences]]),
            "source": pa.array([rows.sources[i] for i, _ in sequences]),
            "input_ids": pa.array([tokens.input_ids for _, tokens in sequences], pa.list_(pa.int32())),
            "response_mask": pa.array([tokens.response_mask for _, tokens in sequences], pa.list_(pa.bool_())),
        }
    )
    return table.cast(TOKEN_SCHEMA), len(bad)
