"""The subset stage: choose, then write ids and rows. Plain functions; writing spreads over Ray tasks when it is large.

Memory: ids, cluster and source numbers of the whole corpus (28 bytes an example) where the choice is made; a task that
writes rows holds one corpus part and one output file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.data.columns import Columns
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_hex, array_to_ids, ids_to_array
from s2l_ray.data.facet_reader import load_facet, read_facets
from s2l_ray.data.facets import PREFIX
from s2l_ray.errors import InternalError, UserError, shown
from s2l_ray.execution.capacity_wait import Patience, results_of
from s2l_ray.execution.failures import unwrap_task_errors
from s2l_ray.selection.rules import Selection, SelectionInputs, select
from s2l_ray.stages.subset.layout import RowLayout
from s2l_ray.stages.subset.programs import write_guides
from s2l_ray.stages.subset.rows import plan_files, write_rows
from s2l_ray.storage.digests import columns_digest
from s2l_ray.storage.folder import Storage

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class SubsetSources:
    """Where the stage reads."""

    trajectories: Storage
    part_rows: list[tuple[int, int]]
    examples: Storage
    clusters: Storage
    format: str
    """Of the corpus, for other programs."""
    columns: Columns | None
    """Of the corpus; None where an earlier version made it."""
    facets: list[str] = field(default_factory=list)
    """Of the corpus; see corpus/facets.py."""


@dataclass(frozen=True)
class SubsetStats:
    num_chosen: int
    num_examples: int
    files: list[str]
    per_source: dict[str, int]
    fingerprint: str
    """Of the chosen ids and their order and rank."""


def read_inputs(sources: SubsetSources) -> SelectionInputs:
    """ids, sources and clusters of all examples; the losses stay on storage."""
    names = [part_name(part) for part, _ in sources.part_rows]
    joined = pa.concat_tables(sources.trajectories.read_tables(names, ["example_id", "source"])).combine_chunks()
    ids = ids_to_array(joined["example_id"])
    encoded = joined["source"].combine_chunks().dictionary_encode()
    assignment = sources.clusters.read_table("assignment.parquet")
    if not np.array_equal(ids_to_array(assignment["example_id"]), ids):
        raise InternalError(
            f"{sources.clusters.uri} was made from other trajectories; delete that folder and run again"
        )
    return SelectionInputs(
        example_ids=ids,
        clusters=assignment["cluster"].to_numpy(),
        sources=encoded.indices.to_numpy().astype(np.int32),
        source_names=encoded.dictionary.to_pylist(),
    )


def build_subset(
    sources: SubsetSources,
    inputs: SelectionInputs,
    selector: str,
    budget: int,
    seed: int,
    stratify: bool | str,
    out: Storage,
    *,
    wait_s: float,
    say: Callable[[str], None],
) -> SubsetStats:
    """Choose `budget` examples and write them; see subset.rows for the files.

    Args:
        stratify: balance the sources, or the values of the facet of this name.
        wait_s: how long the writing of a file may wait for a free CPU of the cluster.
    """
    out.delete_dir()
    strata = _by_facet(sources, inputs, stratify) if isinstance(stratify, str) else inputs
    selection = select(selector, strata, budget, seed, stratify=bool(stratify))
    chosen = _chosen_table(sources, inputs, selection)
    # In the order of the parts, in small row groups: who needs one part's ids reads little more.
    out.write_table("ids.parquet", _with_facets(chosen, sources), compression="zstd", row_group_size=65_536)
    out.write_json("groups.json", selection.groups)
    jobs = plan_files(chosen)
    written = _write_all(jobs, sources, out, lambda: Patience("subset", wait_s, say))
    write_guides(out, {names[0]: layout for names, layout in written}, sources.format)
    files = [name for names, _ in written for name in names]
    assert inputs.sources is not None
    counts = np.bincount(inputs.sources[selection.rows], minlength=len(inputs.source_names))
    per_source = {name: int(n) for name, n in zip(inputs.source_names, counts, strict=True)}
    content = columns_digest(chosen, ["example_id", "s2l_rank"])
    return SubsetStats(len(selection.rows), inputs.num_examples, files, per_source, content)


def _chosen_table(sources: SubsetSources, inputs: SelectionInputs, selection: Selection) -> pa.Table:
    """One row per chosen example: id, part, cluster, rank in its group, first and last loss."""
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
    assert inputs.clusters is not None
    ids = inputs.example_ids[rows]
    return pa.table(
        {
            "example_id": array_to_ids(ids),
            "s2l_id": pa.array(array_to_hex(ids)),
            "part": pa.array(parts[which]),
            "s2l_cluster": pa.array(inputs.clusters[rows].astype(np.int32)),
            "s2l_rank": pa.array(selection.rank.astype(np.int64)),
            "s2l_loss_first": pa.array(first),
            "s2l_loss_last": pa.array(last),
        }
    )


def _with_facets(chosen: pa.Table, sources: SubsetSources) -> pa.Table:
    """The facets beside the ids, one corpus part in memory at a time."""
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


def _by_facet(sources: SubsetSources, inputs: SelectionInputs, name: str) -> SelectionInputs:
    """The inputs with the values of a facet in place of the sources; "" where a row has none."""
    if name not in sources.facets:
        raise UserError(
            f"stratify={shown(name)}: that column is no facet of this corpus (its facets: {shown(sources.facets)}); "
            "name it in corpus.facets, or balance the sources"
        )
    names, codes = load_facet(sources.examples, sources.part_rows, inputs.example_ids, name)
    return replace(inputs, sources=codes, source_names=names)


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
    """→ (what write_rows gives, what Storage.take_written says of the files)."""
    return write_rows(stem, chosen, sources.examples, out, sources.columns), out.take_written()
