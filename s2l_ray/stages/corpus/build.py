"""Runs the corpus stage on Ray: read tasks → shuffle by content hash → one Parquet file per part.

Memory: a read task holds one block of rows, a shuffle task one partition (shuffle.py); both are bounded in bytes, so
tasks do not grow with the corpus. In between, rows are in Ray's object store, which all tasks of a node share (its
pages count in the RSS of every process that has touched them) and which spills to disk. The driver holds the list of
read units and one row of statistics per part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from s2l_ray.config.corpus import CorpusConfig
from s2l_ray.data.columns import Columns
from s2l_ray.data.corpus_parts import HoldOut, choose_rows_per_part
from s2l_ray.data.facets import choose_facets
from s2l_ray.data.quarantine import check_quarantine
from s2l_ray.data.read_task import ReadTask, read_summaries, sample_format
from s2l_ray.data.units import ReadUnit, SourceError
from s2l_ray.errors import InternalError
from s2l_ray.execution.event_channel import event_channel
from s2l_ray.execution.failures import unwrap_task_errors
from s2l_ray.stages.corpus.shuffle import write_in_parts
from s2l_ray.storage.folder import Storage

_BLOCK_BYTES = 32 * 2**20
_NOTHING = HoldOut()


@dataclass(frozen=True)
class CorpusParts:
    """What the stage wrote, and its statistics."""

    num_examples: int
    num_duplicates: int
    num_quarantined: int
    format: str
    is_chat: bool
    """Whether a row is more than a prompt and its response; see `formats.rendered_as`."""
    fingerprint: str
    parts: list[dict[str, Any]]
    """[{part, rows, fingerprint}], in order; part p is `examples/part-<p>.parquet`."""
    heldout: dict[str, Any]
    """{rows, fingerprint, parts} of the held-out examples, in `heldout/`."""
    columns: Columns
    """The rows' columns and their types in `subset.parquet`."""
    facets: dict[str, int]
    """Facet → its number of values; see data/facets.py."""
    num_sources: int
    """Approximate number of different values in the source column."""


def group_units(units: list[ReadUnit], bytes_per_task: int, parallelism: int) -> list[list[ReadUnit]]:
    """Group consecutive units into tasks of about equal size in bytes, so that small files share a task.

    A task costs Ray about 10 ms and the driver some kilobytes, too much for each of thousands of small files. There are
    as many groups as `bytes_per_task` requires, but at least a few for every task that runs at once.
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


def build_corpus(
    units: list[ReadUnit],
    config: CorpusConfig,
    out: Storage,
    rows_per_part: int | None,
    parallelism: int,
    hold_out: HoldOut = _NOTHING,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> CorpusParts:
    """Read, normalise, hash, shuffle and write the corpus. Overwrites what an interrupted attempt left in `out`.

    Args:
        hold_out: which examples go to `heldout/` instead of `examples/`.
        parallelism: about how many tasks the cluster runs at once; bounds the number of the shuffle's partitions.
        on_rows: called in a thread with the number of additional rows read.

    Raises:
        QuarantineLimitError, UnknownFormat, SourceError: the corpus cannot be used as it is.
    """
    import ray.data

    for folder in ("examples", "heldout", "quarantine", "read"):
        out.delete_dir(folder)
    format = sample_format(units, config)
    groups = group_units(units, config.read_bytes_per_task, parallelism)
    items = [{"number": i, "units": json.dumps([vars(u) for u in group])} for i, group in enumerate(groups)]
    with unwrap_task_errors(), event_channel(lambda event: on_rows(event["rows"])) as box:
        task = ReadTask(config, format, out, box)
        read = ray.data.from_items(items, override_num_blocks=len(items))
        read.context.target_max_block_size = _BLOCK_BYTES
        rows = read.map_batches(task, batch_size=1, batch_format="numpy").materialize()
    summary = read_summaries(out, config)
    num_read = summary.num_rows
    out.delete_dir("read")
    if rows.count() != num_read:
        raise InternalError(f"{num_read} rows were read, but {rows.count()} arrived at the shuffle; try again")
    num_quarantined = check_quarantine(out.sub("quarantine"), num_read, config.max_quarantined_share)
    if num_read == 0:
        raise SourceError("the corpus has no usable rows, so there is nothing to select from")
    facets = choose_facets(summary.facets, summary.columns.names(), num_read, config)
    num_parts = max(1, -(-num_read // choose_rows_per_part(num_read, rows_per_part, summary.num_bytes // num_read)))
    with unwrap_task_errors():
        stats = write_in_parts(rows, num_parts, config.duplicates, out, hold_out, parallelism, list(facets))
    for row in stats:
        out.note_written(row.pop("written"))
    parts = sorted(stats, key=lambda s: s["part"])
    num_examples, num_held_out, num_repeats = (
        sum(s[name] for s in parts) for name in ("rows", "heldout_rows", "duplicates")
    )
    expected = num_read - num_repeats if config.duplicates == "drop" else num_read
    if num_examples + num_held_out != expected:
        raise InternalError(
            f"{expected} examples went into the shuffle, but {num_examples + num_held_out} came out; try again"
        )
    if num_examples == 0:
        raise SourceError(f"heldout.share={hold_out.share} leaves none of the {num_held_out} examples; lower it")
    if hold_out.share and num_held_out == 0:
        raise SourceError(f"heldout.share={hold_out.share} holds out none of the {num_examples} examples; raise it")
    heldout = {
        "rows": num_held_out,
        "fingerprint": _digest_all(s["heldout_fingerprint"] for s in parts),
        "parts": [s["part"] for s in parts if s["heldout_rows"]],
    }
    content = _digest_all(s["fingerprint"] for s in parts)
    return CorpusParts(
        num_examples,
        num_repeats,
        num_quarantined,
        format,
        summary.is_chat,
        content,
        parts,
        heldout,
        summary.columns,
        facets,
        summary.sources.estimate(),
    )


def _digest_all(digests: Iterable[str]) -> str:
    return hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest()
