"""Ray glue of the corpus stage: read tasks → shuffle by content hash → one Parquet file per part.

Memory: a read task holds one batch of rows and its unit's unusable rows; a shuffle task one partition. The driver
holds the list of read units and one row of statistics per part, nothing that grows with the examples.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from s2l_ray.cluster.failures import own_errors_alone
from s2l_ray.cluster.mailbox import mailbox
from s2l_ray.config.corpus import CorpusConfig
from s2l_ray.corpus.example_id import content_id
from s2l_ray.corpus.formats import UnusableRow, resolve_format, row_to_json, to_messages
from s2l_ray.corpus.parts import READ_SCHEMA, HoldOut, add_part_column, choose_rows_per_part, part_name, write_part
from s2l_ray.corpus.sources import read_unit
from s2l_ray.corpus.units import RawRow, ReadUnit, SourceError
from s2l_ray.errors import DataError, InternalError
from s2l_ray.run_folder.storage import Storage

_ROWS_PER_BLOCK = 2048
_FEW_BLOCKS = 64
"""Up to so many are exchanged all with all, by plain tasks, in a third of the time that Ray Data's default takes to
start; more would be thousands of crumbs, which that one is made for."""
_NOTHING = HoldOut()
QUARANTINE_SCHEMA = pa.schema(
    [("origin", pa.string()), ("index", pa.int64()), ("reason", pa.string()), ("text", pa.string())]
)


class TooManyUnusable(DataError):
    """More rows are unusable than `corpus.max_quarantined_share` allows."""


@dataclass(frozen=True)
class CorpusParts:
    """What the stage wrote."""

    num_examples: int
    num_duplicates: int
    num_quarantined: int
    format: str
    fingerprint: str
    parts: list[dict[str, Any]]
    """[{part, rows, fingerprint}], in order; part p is `examples/part-<p>.parquet`."""
    heldout: dict[str, Any]
    """{rows, fingerprint, parts} of what was held out, in `heldout/` likewise."""


def sample_format(units: list[ReadUnit], config: CorpusConfig) -> str:
    """Look at the first rows on the driver, so that a wrong format is said before any task starts.

    Raises:
        UnknownFormat, SourceError: no format fits, or no row can be read.
        TooManyUnusable: not one of the first rows can be used.
    """
    first = list(islice(chain.from_iterable(map(read_unit, units)), 100))
    rows = [raw.row for raw in first if raw.row is not None]
    if not first:
        raise SourceError(f"{units[0].origin} and all other files have no row; nothing can be selected from")
    if not rows:
        raise SourceError(
            f"{units[0].origin}: none of its first {len(first)} rows can be read ({first[0].reason}); "
            f"is it really {units[0].kind}?"
        )
    format = resolve_format(config, dict.fromkeys(name for row in rows for name in row))
    reasons: Counter[str] = Counter()
    for row in rows:
        try:
            to_messages(row, format, config)
        except UnusableRow as reason:
            reasons[str(reason)] += 1
    if sum(reasons.values()) == len(rows):
        raise TooManyUnusable(
            f"none of the first {len(rows)} rows of {units[0].origin} can be used as corpus.format={format}: "
            f"{reasons.most_common(1)[0][0]}. Their columns: {sorted(rows[0])}"
        )
    return format


def read_rows(unit: ReadUnit, config: CorpusConfig, format: str) -> Iterator[tuple[dict[str, Any] | None, RawRow, str]]:
    """(usable row as a record, raw row, reason why not)."""
    for raw in read_unit(unit):
        if raw.row is None:
            yield None, raw, raw.reason or "unreadable"
            continue
        try:
            messages = to_messages(raw.row, format, config)
            kept = {k: v for k, v in raw.row.items() if k not in config.drop_columns}
            source = "" if config.source_column is None else raw.row.get(config.source_column)
            record = {
                "id": content_id(messages),
                "origin": raw.origin,
                "index": raw.index,
                "source": "" if source is None else str(source),
                "messages": messages,
                "row": row_to_json(kept),
            }
        except UnusableRow as reason:
            yield None, raw, str(reason)
            continue
        yield record, raw, ""


def group_units(units: list[ReadUnit], bytes_per_task: int, parallelism: int) -> list[list[ReadUnit]]:
    """Consecutive units for one task each, of about equal bytes: small files share a task.

    A task costs Ray some 10 ms and the driver some kilobytes, which thousands of small files are not worth. As many
    groups as `bytes_per_task` asks for, and a few for every task that runs at once.
    """
    sizes = [(u.size if u.end is None else u.end) - u.start for u in units]
    total = sum(sizes)
    num_groups = min(len(units), max(-(-total // bytes_per_task), 4 * parallelism))
    groups: list[list[ReadUnit]] = [[] for _ in range(num_groups)]
    before = 0
    for unit, size in zip(units, sizes, strict=True):
        groups[min(num_groups - 1, before * num_groups // max(1, total))].append(unit)
        before += size
    return [group for group in groups if group]


class ReadTask:
    """Some read units → blocks of usable rows; the unusable ones go to the quarantine folder."""

    def __init__(self, config: CorpusConfig, format: str, quarantine: Storage, box: Any = None) -> None:
        self.config, self.format, self.quarantine, self.box = config, format, quarantine, box

    def __call__(self, batch: dict[str, Any]) -> Iterator[pa.Table]:
        number = int(batch["number"][0])
        units = [ReadUnit(**fields) for fields in json.loads(batch["units"][0])]
        good: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        rows = chain.from_iterable(read_rows(unit, self.config, self.format) for unit in units)
        for record, raw, reason in rows:
            if record is None:
                text = raw.text or str(raw.row)[:500]
                bad.append({"origin": raw.origin, "index": raw.index, "reason": reason, "text": text})
                continue
            good.append(record)
            if len(good) == _ROWS_PER_BLOCK:
                yield self._block(good)
                good = []
        if bad:
            self.quarantine.write_table(part_name(number), pa.Table.from_pylist(bad, schema=QUARANTINE_SCHEMA))
        yield self._block(good)

    def _block(self, rows: list[dict[str, Any]]) -> pa.Table:
        if self.box is not None:
            self.box.put.remote({"rows": len(rows)})
        return pa.Table.from_pylist(rows, schema=READ_SCHEMA)


def build_corpus(
    units: list[ReadUnit],
    config: CorpusConfig,
    out: Storage,
    rows_per_part: int | None,
    parallelism: int,
    hold_out: HoldOut = _NOTHING,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> CorpusParts:
    """Read, normalise, hash, shuffle, write. Overwrites what an interrupted attempt left in `out`.

    Args:
        hold_out: which examples go to `heldout/` instead of `examples/`.
        parallelism: about how many tasks the cluster runs at once; bounds the shuffle's partitions.
        on_rows: told how many rows more were read, from a thread.

    Raises:
        TooManyUnusable, UnknownFormat, SourceError: the corpus cannot be used as it is.
    """
    import ray.data
    from ray.data.context import ShuffleStrategy

    for folder in ("examples", "heldout", "quarantine"):
        out.delete_dir(folder)
    format = sample_format(units, config)
    groups = group_units(units, config.read_bytes_per_task, parallelism)
    items = [{"number": i, "units": json.dumps([vars(u) for u in group])} for i, group in enumerate(groups)]
    with own_errors_alone(), mailbox(lambda event: on_rows(event["rows"])) as box:
        task = ReadTask(config, format, out.sub("quarantine"), box)
        read = ray.data.from_items(items, override_num_blocks=len(items))
        rows = read.map_batches(task, batch_size=1, batch_format="numpy").materialize()
    num_read = rows.count()
    num_quarantined = check_quarantine(out.sub("quarantine"), num_read, config.max_quarantined_share)
    if num_read == 0:
        raise SourceError("the corpus has no usable row; nothing can be selected from")
    num_parts = max(1, -(-num_read // choose_rows_per_part(num_read, rows_per_part)))
    bucketed = rows.map_batches(
        add_part_column, fn_kwargs={"num_parts": num_parts}, batch_format="pyarrow", batch_size=None
    )
    if rows.num_blocks() <= _FEW_BLOCKS:
        bucketed.context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    written = bucketed.groupby("part", num_partitions=min(num_parts, max(2, 2 * parallelism))).map_groups(
        write_part,
        fn_kwargs={"duplicates": config.duplicates, "out": out, "hold_out": hold_out},
        batch_format="pyarrow",
    )
    with own_errors_alone():
        stats = written.take_all()
    for row in stats:
        out.note_written(row.pop("written"))
    parts = sorted(stats, key=lambda s: s["part"])
    num_examples, num_held_out, num_repeats = (
        sum(s[name] for s in parts) for name in ("rows", "heldout_rows", "duplicates")
    )
    expected = num_read - num_repeats if config.duplicates == "drop" else num_read
    if num_examples + num_held_out != expected:
        raise InternalError(
            f"{expected} examples went into the shuffle, {num_examples + num_held_out} came out; run again"
        )
    if num_examples == 0:
        raise SourceError(f"heldout.share={hold_out.share} leaves none of {num_held_out} examples; lower it")
    if hold_out.share and num_held_out == 0:
        raise SourceError(f"heldout.share={hold_out.share} holds out none of {num_examples} examples; raise it")
    heldout = {
        "rows": num_held_out,
        "fingerprint": _digest_all(s["heldout_fingerprint"] for s in parts),
        "parts": [s["part"] for s in parts if s["heldout_rows"]],
    }
    content = _digest_all(s["fingerprint"] for s in parts)
    return CorpusParts(num_examples, num_repeats, num_quarantined, format, content, parts, heldout)


def _digest_all(digests: Iterable[str]) -> str:
    return hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest()


def check_quarantine(quarantine: Storage, num_usable: int, max_share: float) -> int:
    """Count the quarantined rows.

    Raises:
        TooManyUnusable: their share is past `max_share`; says the commonest reasons and where.
    """
    reasons: Counter[str] = Counter()
    shown: list[str] = []
    for entry in quarantine.list():
        table = quarantine.read_table(entry.name)
        reasons.update(table["reason"].to_pylist())
        if len(shown) < 3:
            first = table.slice(0, 3 - len(shown)).to_pylist()
            shown += [f"{r['origin']} at {r['index']}: {r['reason']}" for r in first]
    num_bad = sum(reasons.values())
    share = num_bad / max(1, num_bad + num_usable)
    if share > max_share:
        top = "; ".join(f"{n:,} × {reason}" for reason, n in reasons.most_common(5))
        raise TooManyUnusable(
            f"{num_bad:,} of {num_bad + num_usable:,} rows ({share:.1%}) cannot be used, more than "
            f"corpus.max_quarantined_share={max_share:.1%}. {top}. For example: {' | '.join(shown)}. "
            f"All are listed in {quarantine.uri}. Mend them, or raise the share"
        )
    return num_bad
