"""Builds a subset: selects, then writes ids and rows. Plain functions; large subsets are written by several Ray tasks.

Memory: what `subset.inputs` holds, and the ordering (12 bytes per example) in the process that selects; a task that
writes rows holds one corpus part and one output file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.data.columns import STAGE, WEIGHT
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_hex, array_to_ids, ids_to_array
from s2l_ray.data.facet_reader import read_facets
from s2l_ray.data.facets import PREFIX
from s2l_ray.execution.capacity_wait import Patience, results_of
from s2l_ray.execution.failures import unwrap_task_errors
from s2l_ray.selection import Ordering, Selection, SelectionInputs, SelectorOptions, cluster_weights
from s2l_ray.selection.options import SamplingOptions
from s2l_ray.stages.subset.inputs import SubsetSources
from s2l_ray.stages.subset.layout import RowLayout
from s2l_ray.stages.subset.programs import write_guides
from s2l_ray.stages.subset.rows import plan_files, write_rows
from s2l_ray.storage.digests import columns_digest
from s2l_ray.storage.folder import Storage

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class SubsetStats:
    num_chosen: int
    num_examples: int
    files: list[str]
    per_source: dict[str, int]
    fingerprint: str
    """Fingerprint of the selected ids with their order and rank, and their weights and stages, if any."""
    num_ineligible: int
    """Number of examples selected although a guard or the selector's own rule excludes them."""
    warnings: list[str]
    weighted: bool
    """Whether the selected examples have weights."""


def build_subset(
    sources: SubsetSources,
    inputs: SelectionInputs,
    ordering: Ordering,
    options: SelectorOptions,
    budget: int,
    out: Storage,
    *,
    wait_s: float,
    say: Callable[[str], None],
) -> SubsetStats:
    """Take the first `budget` examples of an ordering, and write them; see subset.rows for the files.

    Args:
        options: the selector's options, which determine whether the examples have weights.
        wait_s: how long the writing of a file may wait for a free CPU (seconds).
    """
    out.delete_dir()
    selection = ordering.take(budget)
    chosen = _chosen_table(sources, inputs, ordering, selection, options)
    # In the order of the parts, in small row groups, so that reading one part's ids reads little more.
    out.write_table("ids.parquet", _with_facets(chosen, sources), compression="zstd", row_group_size=65_536)
    out.write_json("groups.json", selection.groups)
    if ordering.guard is not None:
        out.write_json("guard.json", ordering.guard.to_json())
    jobs = plan_files(chosen)
    written = _write_all(jobs, sources, out, lambda: Patience("subset", wait_s, say))
    weighted, staged = WEIGHT in chosen.column_names, STAGE in chosen.column_names
    write_guides(out, {names[0]: layout for names, layout in written}, sources.format, weighted, staged)
    files = [name for names, _ in written for name in names]
    assert inputs.sources is not None
    counts = np.bincount(inputs.sources[selection.rows], minlength=len(inputs.source_names))
    per_source = {name: int(n) for name, n in zip(inputs.source_names, counts, strict=True)}
    telling = [name for name in ("example_id", "s2l_rank", WEIGHT, STAGE) if name in chosen.column_names]
    warnings = [*ordering.warnings, *(ordering.guard.warnings if ordering.guard else []), *selection.warnings]
    return SubsetStats(
        len(selection.rows), inputs.num_examples, files, per_source, columns_digest(chosen, telling),
        selection.num_ineligible, warnings, weighted,
    )  # fmt: skip


def _chosen_table(
    sources: SubsetSources, inputs: SelectionInputs, ordering: Ordering, selection: Selection, options: SelectorOptions
) -> pa.Table:
    """One row per selected example: id, part, rank in its group, first and last loss; cluster, weight and stage if the
    selector provides them."""
    rows = selection.rows  # (n,) sorted
    starts = np.cumsum([0] + [n for _, n in sources.part_rows])
    which = np.searchsorted(starts, rows, side="right") - 1  # (n,)
    first, last = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    touched, begins = np.unique(which, return_index=True)
    names = [part_name(sources.part_rows[i][0]) for i in touched]
    tables = sources.trajectories.read_tables(names, ["loss_nats"])
    for i, begin, end, table in zip(touched, begins, [*begins[1:], len(rows)], tables, strict=True):
        losses = table["loss_nats"].combine_chunks()
        matrix = losses.flatten().to_numpy().reshape(len(losses), -1)[rows[begin:end] - starts[i]]
        first[begin:end], last[begin:end] = matrix[:, 0], matrix[:, -1]
    parts = np.array([p for p, _ in sources.part_rows], dtype=np.int64)
    ids = inputs.example_ids[rows]
    columns = {
        "example_id": array_to_ids(ids),
        "s2l_id": pa.array(array_to_hex(ids)),
        "part": pa.array(parts[which]),
    }
    if inputs.clusters is not None:
        columns["s2l_cluster"] = pa.array(inputs.clusters[rows].astype(np.int32))
    columns |= {
        "s2l_rank": pa.array(selection.rank.astype(np.int64)),
        "s2l_loss_first": pa.array(first),
        "s2l_loss_last": pa.array(last),
    }
    if isinstance(options, SamplingOptions) and options.weights == "cluster":
        columns[WEIGHT] = pa.array(cluster_weights(ordering, selection, options.weights_cap))
    if ordering.stage is not None:
        columns[STAGE] = pa.array(ordering.stage[rows])
    return pa.table(columns)


def _with_facets(chosen: pa.Table, sources: SubsetSources) -> pa.Table:
    """Add the facets to the ids, with one corpus part in memory at a time."""
    if not sources.facets:
        return chosen
    ids, parts = ids_to_array(chosen["example_id"]), chosen["part"].to_numpy()
    columns: list[list[pa.Array]] = [[] for _ in sources.facets]
    for part in dict.fromkeys(parts.tolist()):
        found = read_facets(sources.examples, part_name(part), ids[parts == part], sources.facets)
        for column, values in zip(columns, found, strict=True):
            column.append(values)
    for name, values in zip(sources.facets, columns, strict=True):
        chosen = chosen.append_column(PREFIX + name, pa.chunked_array(values).dictionary_encode().unify_dictionaries())
    return chosen


def _write_all(
    jobs: list[tuple[str, pa.Table]], sources: SubsetSources, out: Storage, patience: Callable[[], Patience]
) -> list[tuple[list[str], RowLayout]]:
    import ray

    if len(jobs) == 1 or not ray.is_initialized():  # `s2l select` starts no Ray
        return [write_rows(stem, table, sources.examples, out, sources.columns) for stem, table in jobs]
    write = ray.remote(num_cpus=1, max_retries=3, scheduling_strategy="DEFAULT")(_write_file)
    with unwrap_task_errors():
        done = results_of([write.remote(stem, table, sources, out) for stem, table in jobs], patience)
    for _, noted in done:
        out.note_written(noted)
    return [written for written, _ in done]


def _write_file(
    stem: str, chosen: pa.Table, sources: SubsetSources, out: Storage
) -> tuple[tuple[list[str], RowLayout], list[dict[str, Any]]]:
    """Write one file → (the result of write_rows, that of Storage.take_written)."""
    return write_rows(stem, chosen, sources.examples, out, sources.columns), out.take_written()
