"""Runs the evaluation on Ray: tests nodes, has a pool answer parts of test sets, searches the corpus for questions.

Memory: the driver holds the questions, and one row of statistics per part; a search task holds one part of the corpus
and the questions' hashes (evaluation.contamination).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.data.corpus_parts import part_name
from s2l_ray.evaluation.contamination import Hits, QuestionIndex
from s2l_ray.evaluation.questions import ID_BYTES
from s2l_ray.evaluation.sandbox import ProbeReport, SandboxSettings, check_node, probe_node
from s2l_ray.execution.actor_pool import ActorPool
from s2l_ray.execution.capacity import num_fitting_workers
from s2l_ray.execution.node_facts import on_every_node
from s2l_ray.execution.part_tasks import each_part
from s2l_ray.execution.placement import Placement
from s2l_ray.stages.evaluation.engines import EngineNode, engine_node
from s2l_ray.stages.evaluation.generate_vllm import VllmTask
from s2l_ray.stages.evaluation.part import PartJob
from s2l_ray.stages.evaluation.worker import EvaluationWorker, ModelJob
from s2l_ray.storage.folder import Storage

OVERLAP = "overlap.parquet"
_HITS = ("ngrams", "exact", "templates")


@dataclass(frozen=True)
class Generation:
    """Results of the pool, summed over the parts."""

    content: list[list[str]]
    """Fingerprints of each part's content."""
    counts: dict[str, int]
    finish: dict[str, int]
    outcomes: dict[str, int]
    sandboxes: list[dict[str, Any]]
    """Reports on the sandbox of every node on which programs ran."""
    num_halved: int
    device: str


def model_pool(job: ModelJob, placement: Placement, what: str, max_failures: int, say: Callable[[str], None]) -> Any:
    """A pool of workers with one model, for several tasks; a context manager."""
    return ActorPool(functools.partial(EvaluationWorker, job), placement, what, max_failures, say)


def check_nodes(settings: SandboxSettings, placement: Placement, embedded: bool) -> list[ProbeReport]:
    """Test the isolation on every running node that can hold a worker of this placement.

    Raises:
        EvaluationError: a node cannot isolate programs, or lacks packages that they import; nothing was generated.
    """
    reports: list[ProbeReport] = on_every_node(
        probe_node, lambda node: num_fitting_workers(node, placement.worker) > 0, embedded, settings
    )
    for report in reports:
        check_node(report, settings)
    return reports


def generate(pool: ActorPool, parts: list[PartJob], out: Storage, on_rows: Callable[[int], None]) -> Generation:
    """Answer all parts; complete files of earlier attempts are kept.

    Raises:
        EvaluationError: a node cannot isolate programs, or lacks packages that they import.
        PoolFailedError: workers died too often.
    """
    return _summed_up(pool.map(parts, on_done=lambda row: on_rows(row["rows"])), out)


def ask_nodes(placement: Placement, embedded: bool) -> list[EngineNode]:
    """Ask the running nodes that can hold a worker for their GPUs and their version of vLLM."""
    return on_every_node(
        engine_node, lambda node: num_fitting_workers(node, placement.worker) > 0, embedded, sees_gpus=True
    )


def generate_by_vllm(
    task: VllmTask, parts: list[PartJob], out: Storage, on_rows: Callable[[int], None], say: Callable[[str], None]
) -> Generation:
    """Answer all parts with vLLM; complete files of earlier attempts are kept.

    Raises:
        EvaluationError: an engine cannot start or failed too often, or a node cannot isolate programs.
        PoolFailedError: the processes that run programs died too often.
    """

    def run_programs(jobs: list[PartJob]) -> None:
        with model_pool(task.job, task.placement, f"{task.what} (programs)", task.max_failures, say) as pool:
            for row in pool.map(jobs):
                out.note_written(row["written"])

    return _summed_up(task.generate(parts, run_programs, on_rows), out)


def _summed_up(stats: list[dict[str, Any]], out: Storage) -> Generation:
    for row in stats:
        out.note_written(row["written"])
    probes = {row["probe"]["node"]: row["probe"] for row in stats if row["probe"]}

    def summed(name: str) -> dict[str, int]:
        return dict(sum((Counter(row[name]) for row in stats), Counter()))

    counts = {name: sum(row[name] for row in stats) for name in ("rows", "new_tokens", "quarantined")}
    return Generation(
        [row["content"] for row in stats], counts, summed("finish"), summed("outcomes"),
        [probes[node] for node in sorted(probes)], sum(row["num_halved"] for row in stats),
        stats[0]["device"] if stats else "cpu",
    )  # fmt: skip


class _Scan:
    """Searches one part of the corpus for questions."""

    def __init__(self, examples: Storage, index: QuestionIndex) -> None:
        self.examples, self.index = examples, index

    def __call__(self, part: int) -> dict[str, Any]:
        messages = self.examples.read_table(part_name(part), ["messages"])["messages"].to_pylist()
        hits = self.index.scan(turn["content"] for turns in messages for turn in turns)
        found = {name: getattr(hits, name).astype(np.int64).tobytes() for name in _HITS}
        return {"part": part, "rows": len(messages), "num_texts": hits.num_texts, **found}


def search_corpus(
    examples: Storage,
    parts: list[int],
    ids: list[bytes],
    index: QuestionIndex,
    share: float,
    parallelism: int,
    out: Storage,
    on_rows: Callable[[int], None],
) -> pa.Table:
    """Search the corpus for the questions, and write each question's overlap to `overlap.parquet`."""
    hits = Hits.merged([])
    for row in each_part(parts, _Scan(examples, index), parallelism, on_rows):
        found = {name: np.frombuffer(row[name], dtype=np.int64) for name in _HITS}
        hits = Hits.merged([hits, Hits(num_texts=row["num_texts"], **found)])
    overlap = index.overlap(hits, share)
    table = pa.table(
        {
            "question_id": pa.array(ids, pa.binary(ID_BYTES)), "exact": overlap.exact, "ngram": overlap.ngram,
            "template": overlap.template, "ngram_share": pa.array(overlap.share, from_pandas=True),
        }
    )  # fmt: skip
    out.write_table(OVERLAP, table)
    return table
