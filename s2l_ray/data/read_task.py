"""Convert rows to records of usable rows: the first rows on the driver, all of them in read tasks.

Memory: a read task holds one block of records, bounded in rows and bytes, and a bounded number of unusable rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from s2l_ray.config.corpus import CorpusConfig
from s2l_ray.data.chats import without_table_nulls
from s2l_ray.data.columns import OWN_COLUMNS, Columns
from s2l_ray.data.conversation import Conversation
from s2l_ray.data.corpus_parts import READ_SCHEMA, part_name
from s2l_ray.data.diagnosis import diagnose
from s2l_ray.data.distinct import DistinctValues
from s2l_ray.data.facets import FacetValues
from s2l_ray.data.formats import TOOL_COLUMNS, UnknownFormat, format_of_rows, to_conversation
from s2l_ray.data.quarantine import QuarantineLimitError, QuarantineWriter
from s2l_ray.data.row_json import row_to_json
from s2l_ray.data.sources import read_unit
from s2l_ray.data.units import RawRow, ReadUnit, SourceError, UnusableRow, clip, clip_names
from s2l_ray.storage.folder import Storage

_SAMPLE_ROWS = 100
_SAMPLE_BYTES = 32 * 2**20
_ROWS_PER_BLOCK = 2048
_BYTES_PER_BLOCK = 16 * 2**20
SUMMARY_SCHEMA = pa.schema(
    [("rows", pa.int64()), ("bytes", pa.int64()), ("is_chat", pa.bool_()), ("columns", pa.string()),
     ("facets", pa.string()), ("sources", pa.list_(pa.uint64()))]
)  # fmt: skip
"""Schema of a read task's summary: number of rows, bytes of their JSON, whether one is a chat, columns and facets as
plain data, and a sketch of the sources."""


def sample_format(units: list[ReadUnit], config: CorpusConfig) -> str:
    """Detect the format from the first rows on the driver, so that a wrong one is reported before any task starts.

    Raises:
        UnknownFormat, SourceError: no format fits, or no row can be read.
        QuarantineLimitError: none of the first rows can be used.
    """
    first = list(first_rows(units, config.max_row_bytes))
    rows = [raw.row for raw in first if raw.row is not None]
    if not first:
        raise SourceError(
            f"{clip(units[0].origin)} and all other files have no rows, so there is nothing to select from; name files "
            "with data"
        )
    bad = next((raw for raw in first if raw.row is None), first[0])
    unit = next(unit for unit in units if unit.origin == bad.origin)
    hint = diagnose(unit) if len(first) == 1 or len(rows) * 2 < len(first) else ""
    if len(rows) * 2 < len(first) and (hint or not rows):
        raise SourceError(
            f"{clip(bad.origin)}: {'none' if not rows else f'only {len(rows)}'} of its first {len(first)} rows can be "
            f"read ({(bad.reason or '').removesuffix(f'; {hint}')}); {hint or f'is it really {unit.kind}?'}"
        )
    try:
        format = format_of_rows(config, rows)
    except UnknownFormat as error:
        if hint := hint or diagnose(unit):
            raise SourceError(f"{clip(bad.origin)}: {hint}") from error
        raise
    reasons: Counter[str] = Counter()
    for raw in first:
        if raw.row is not None:
            try:
                to_record(raw, kept_columns(raw.row, config), config, format)
            except UnusableRow as reason:
                reasons[str(reason)] += 1
    if sum(reasons.values()) == len(rows):
        raise QuarantineLimitError(
            f"none of the first {len(rows)} rows of {clip(units[0].origin)} can be used as corpus.format={format}: "
            f"{clip(reasons.most_common(1)[0][0], 600)}. Their columns: {clip_names(sorted(rows[0]))}"
            + (f". Perhaps {hint}" if hint else "")
        )
    return format


MAX_FURTHER_FILES, _ROWS_OF_EACH = 20, 10
"""How many files that the first rows do not reach are looked into, and how many rows of each."""


def files_beyond(units: list[ReadUnit], raws: Iterable[RawRow]) -> list[ReadUnit]:
    """List the beginnings of the files that these rows do not reach."""
    reached = {raw.origin for raw in raws}
    return list({unit.origin: unit for unit in units if unit.origin not in reached and unit.start == 0}.values())


def first_rows_of_each(files: list[ReadUnit], max_row_bytes: int) -> Iterator[tuple[str, list[RawRow]]]:
    """Yield (origin, a few rows) of at most MAX_FURTHER_FILES files, for the driver."""
    for unit in files[:MAX_FURTHER_FILES]:
        yield unit.origin, list(islice(first_rows([unit], max_row_bytes), _ROWS_OF_EACH))


def first_rows(units: list[ReadUnit], max_row_bytes: int) -> Iterator[RawRow]:
    """Yield the first rows, bounded in number and bytes, for the driver."""
    num_bytes = 0
    raws = chain.from_iterable(read_unit(unit, max_row_bytes) for unit in units)
    for raw in islice(raws, _SAMPLE_ROWS):
        yield raw
        if raw.row is not None:
            try:
                num_bytes += len(row_to_json(raw.row))
            except UnusableRow:
                num_bytes += _SAMPLE_BYTES // _SAMPLE_ROWS
        if num_bytes > _SAMPLE_BYTES:
            return


def first_conversations(units: list[ReadUnit], config: CorpusConfig, format: str) -> list[Conversation]:
    """Return the conversations of those first rows that can be used."""
    chats = []
    for raw in first_rows(units, config.max_row_bytes):
        if raw.row is not None:
            try:
                chats.append(_conversation(raw, config, format))
            except UnusableRow:
                continue
    return chats


def _conversation(raw: RawRow, config: CorpusConfig, format: str) -> Conversation:
    """Convert a row to a conversation.

    Raises:
        UnusableRow: the row cannot be used.
    """
    assert raw.row is not None
    row = without_table_nulls(raw.row, TOOL_COLUMNS) if raw.is_typed and format != "template" else raw.row
    return to_conversation(row, format, config)


def is_chat(raw: RawRow, config: CorpusConfig, format: str) -> bool:
    """Whether the row can be used and is more than a prompt and its response."""
    try:
        return raw.row is not None and _conversation(raw, config, format).is_chat
    except UnusableRow:
        return False


def kept_columns(row: dict[str, Any], config: CorpusConfig) -> dict[str, Any]:
    """Return the row without `corpus.drop_columns`."""
    if not config.drop_columns:
        return row
    return {name: value for name, value in row.items() if name not in config.drop_columns}


def to_record(raw: RawRow, kept: dict[str, Any], config: CorpusConfig, format: str) -> dict[str, Any]:
    """Convert a usable row to a record, with the columns that are kept as JSON.

    Raises:
        UnusableRow: the row cannot be used.
    """
    assert raw.row is not None
    conversation = _conversation(raw, config, format)
    for name in OWN_COLUMNS:
        if name in kept:
            raise UnusableRow(
                f"column {name!r} has a name that every subset uses for a column of its own; rename it, or name it in "
                f"corpus.drop_columns (for rows of an earlier subset: corpus.drop_columns=[{','.join(OWN_COLUMNS)}])"
            )
    row = row_to_json(kept)
    source = None if config.source_column is None else raw.row.get(config.source_column)
    messages, chat = conversation.packed()
    return {
        "id": conversation.id,
        "origin": raw.origin,
        "index": raw.index,
        "source": "" if source is None else _source_text(source),
        "messages": messages,
        "chat": chat,
        "row": row,
        "is_chat": conversation.is_chat,
    }


def _source_text(source: Any) -> str:
    try:
        text = str(source)
        text.encode()
    except (ValueError, RecursionError) as error:
        raise UnusableRow(f"the source column cannot be taken as text ({type(error).__name__})") from None
    return text


def read_rows(
    unit: ReadUnit,
    config: CorpusConfig,
    format: str,
    columns: Columns | None = None,
    facets: FacetValues | None = None,
) -> Iterator[tuple[dict[str, Any] | None, RawRow, str]]:
    """Yield (record or None, raw row, reason why the row is unusable or "").

    Args:
        columns, facets: updated with those of the usable rows.
    """
    for raw in read_unit(unit, config.max_row_bytes):
        if raw.row is None:
            yield None, raw, raw.reason or "unreadable"
            continue
        kept = kept_columns(raw.row, config)
        try:
            record = to_record(raw, kept, config, format)
            if facets is not None:
                facets.add(kept)
        except UnusableRow as reason:
            yield None, raw, str(reason)
            continue
        if columns is not None:
            columns.add(kept)
        yield record, raw, ""


class ReadTask:
    """Task that reads some units: yields blocks of usable rows, and writes unusable ones and a summary to storage."""

    def __init__(self, config: CorpusConfig, format: str, out: Storage, box: Any = None) -> None:
        self.config, self.format, self.out, self.box = config, format, out, box

    def __call__(self, batch: dict[str, Any]) -> Iterator[pa.Table]:
        number = int(batch["number"][0])
        units = [ReadUnit(**fields) for fields in json.loads(batch["units"][0])]
        quarantine = QuarantineWriter(self.out.sub("quarantine"), number)
        columns = Columns()
        named = self.config.facets
        facets = FacetValues(None if named is None else tuple(named))
        sources = DistinctValues()
        total_rows = total_bytes = block_bytes = 0
        is_chat = False
        block: list[dict[str, Any]] = []
        for record, raw, reason in chain.from_iterable(self._rows(units, columns, facets)):
            if record is None:
                quarantine.add(raw, reason)
                continue
            is_chat |= record.pop("is_chat")
            sources.add(record["source"])
            block.append(record)
            block_bytes += len(record["row"])
            if len(block) == _ROWS_PER_BLOCK or block_bytes > _BYTES_PER_BLOCK:
                yield self._block(block)
                total_rows, total_bytes = total_rows + len(block), total_bytes + block_bytes
                block, block_bytes = [], 0
        quarantine.flush()
        summary = {"rows": total_rows + len(block), "bytes": total_bytes + block_bytes, "is_chat": is_chat}
        plain = {
            "columns": json.dumps(columns.to_plain()),
            "facets": json.dumps(facets.to_plain()),
            "sources": sorted(sources.smallest),
        }
        table = pa.Table.from_pylist([summary | plain], schema=SUMMARY_SCHEMA)
        self.out.sub("read").write_table(part_name(number), table)
        yield self._block(block)

    def _rows(self, units: list[ReadUnit], columns: Columns, facets: FacetValues) -> Iterable[Iterator[Any]]:
        return (read_rows(unit, self.config, self.format, columns, facets) for unit in units)

    def _block(self, rows: list[dict[str, Any]]) -> pa.Table:
        if self.box is not None:
            self.box.put.remote({"rows": len(rows)})
        return pa.Table.from_pylist(rows, schema=READ_SCHEMA)


@dataclass
class ReadSummary:
    """Summary of all read tasks."""

    num_rows: int = 0
    num_bytes: int = 0
    """Bytes of the rows' JSON."""
    is_chat: bool = False
    """Whether one of the rows is more than a prompt and its response."""
    columns: Columns = field(default_factory=Columns)
    facets: FacetValues = field(default_factory=FacetValues)
    sources: DistinctValues = field(default_factory=DistinctValues)


def read_summaries(out: Storage, config: CorpusConfig) -> ReadSummary:
    """Merge the summaries of all read tasks."""
    total = ReadSummary(facets=FacetValues(None if config.facets is None else tuple(config.facets)))
    folder = out.sub("read")
    for table in folder.read_tables([entry.name for entry in folder.list()]):
        [summary] = table.to_pylist()
        total.num_rows += summary["rows"]
        total.num_bytes += summary["bytes"]
        total.is_chat |= summary["is_chat"]
        total.columns.merge(Columns.from_plain(json.loads(summary["columns"])))
        total.sources.merge(summary["sources"])
        total.facets.merge(FacetValues.from_plain(json.loads(summary["facets"])))
    return total
