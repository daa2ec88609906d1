"""Parts of the corpus: equal ranges of the content hash, one Parquet file each, and the held-out share of each.

Each part is a random sample of the corpus, and exact duplicates fall into the same part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.data.conversation import CHAT_COLUMN
from s2l_ray.data.example_id import ID_TYPE, ids_to_array, occurrence_id
from s2l_ray.data.facets import facet_columns
from s2l_ray.data.ranking import sampling_keys
from s2l_ray.storage.folder import Storage

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
READ_SCHEMA = pa.schema(
    [
        ("id", ID_TYPE),
        ("origin", pa.string()),
        ("index", pa.int64()),
        ("source", pa.string()),
        ("messages", _MESSAGES),
        (CHAT_COLUMN, pa.string()),
        ("row", pa.string()),
    ]
)
"""Schema of rows on their way from read tasks to parts; for `chat` see data/conversation.py."""
EXAMPLE_SCHEMA = pa.schema(
    [pa.field("example_id", ID_TYPE), *(f for f in list(READ_SCHEMA)[1:] if f.name != CHAT_COLUMN)]
)
"""Schema of a part; it also has the column `chat` if `messages` alone cannot represent one of its chats, and `facet:…`
columns if the corpus has facets."""

_PART_BYTES = 64 * 2**20
_LARGE_PART, _MANY_PARTS = 4096, 2048
"""Part size (examples) up to which parts grow with the corpus, and number of parts from which they grow again."""


def part_name(part: int) -> str:
    return f"part-{part:06d}.parquet"


def choose_rows_per_part(num_examples: int, wanted: int | None = None, row_bytes: int = 0) -> int:
    """Choose the examples per part, a power of two: about 32 parts for a small corpus, 4,096 examples per part from
    131,072 examples on, and about 3,000 parts from 17 million on.

    A part is the unit of work and one file of several stages, per snapshot in some: a small corpus needs enough parts
    to distribute, and a large one must not have so many that storage mostly lists names. Long rows give smaller parts
    (`_PART_BYTES` each), because a reader holds a whole part in memory.
    """
    if wanted is not None:
        return wanted
    rows = max(min(_power_of_two(num_examples / 32), _LARGE_PART), _power_of_two(num_examples / _MANY_PARTS), 64)
    while rows > 1 and rows * row_bytes > _PART_BYTES:
        rows //= 2
    return rows


def _power_of_two(number: float) -> int:
    """Return the largest power of two that is not above `number`; at least 1."""
    return 1 << max(0, int(number).bit_length() - 1)


def add_part_column(table: pa.Table, num_parts: int) -> pa.Table:
    """Add the column `part`; parts are equal ranges of the content hash."""
    high = ids_to_array(table["id"])[:, 0]
    part = ((high >> np.uint64(32)) * np.uint64(num_parts)) >> np.uint64(32)
    return table.append_column("part", pa.array(part.astype(np.int64)))


@dataclass(frozen=True)
class HoldOut:
    """Rule that holds out a share of the examples by content, so that exact duplicates stay together."""

    share: float = 0.0
    seed: int = 0

    def chosen(self, ids: np.ndarray) -> np.ndarray:
        """Return (N,) bool, True where the example of `ids` (N, 2) is held out."""
        return sampling_keys(ids, self.seed, "held-out") < np.uint64(int(self.share * 2**64))


def write_part(
    table: pa.Table, duplicates: str, out: Storage, hold_out: HoldOut, facets: Sequence[str] = ()
) -> pa.Table:
    """Write one bucket of the shuffle as a part, sorted by (content, row), so that it depends only on content.

    Args:
        facets: columns of the rows to store beside the ids.

    Returns:
        One row of statistics: part, rows, duplicates, fingerprint, rows and fingerprint of the held-out examples, and
        the files `written`.
    """
    part = table["part"][0].as_py()
    # If duplicates differ in other columns, the row's content decides which comes first; file names only break ties.
    order = ("id", "row", "source", "origin", "index")
    table = table.sort_by([(name, "ascending") for name in order]).combine_chunks()
    ids = ids_to_array(table["id"])
    is_repeat = np.zeros(len(ids), dtype=bool)
    is_repeat[1:] = (ids[1:] == ids[:-1]).all(axis=1)
    is_held_out = hold_out.chosen(ids)
    if duplicates == "drop":
        table = table.filter(pa.array(~is_repeat))
        is_held_out = is_held_out[~is_repeat]
    else:
        first = np.flatnonzero(~is_repeat)
        occurrence = np.arange(len(ids)) - np.repeat(first, np.diff(np.append(first, len(ids))))
        content = table["id"].to_pylist()
        new = [occurrence_id(c, int(n)) for c, n in zip(content, occurrence, strict=True)]
        table = table.set_column(table.schema.get_field_index("id"), "id", pa.array(new, ID_TYPE))
    chats = table[CHAT_COLUMN]
    rows = table.rename_columns({"id": "example_id"}).select(EXAMPLE_SCHEMA.names).cast(EXAMPLE_SCHEMA)
    if chats.null_count < len(chats):
        rows = rows.append_column(CHAT_COLUMN, chats)
    for name, values in facet_columns(rows["row"], facets).items():
        rows = rows.append_column(name, values)
    stats: dict[str, Any] = {"part": part, "duplicates": int(is_repeat.sum())}
    for folder, prefix, kept in (("examples", "", ~is_held_out), ("heldout", "heldout_", is_held_out)):
        mine = rows.filter(pa.array(kept))
        if folder == "examples" or mine.num_rows:
            out.sub(folder).write_table(part_name(part), mine, compression="zstd")
        stats |= {f"{prefix}rows": mine.num_rows, f"{prefix}fingerprint": _digest_of(mine)}
    stats["written"] = out.take_written()
    return pa.Table.from_pylist([stats])


def _digest_of(rows: pa.Table) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for example_id, source, row in zip(*(rows[c].to_pylist() for c in ("example_id", "source", "row")), strict=True):
        digest.update(b"\0".join((example_id, source.encode(), row.encode())))
    return digest.hexdigest()
