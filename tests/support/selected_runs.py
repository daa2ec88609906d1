"""Runs up to their subsets, written without training anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.manifest import StageManifest, write_manifest
from s2l_ray.artifacts.models import TokensArtifact
from s2l_ray.artifacts.outputs import list_outputs
from s2l_ray.config import load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.corpus_parts import EXAMPLE_SCHEMA, part_name
from s2l_ray.data.example_id import array_to_hex, array_to_ids
from s2l_ray.data.token_parts import TOKEN_SCHEMA
from s2l_ray.selection import SelectionInputs, order_examples
from s2l_ray.selection.quotas import resolve_budget
from s2l_ray.stages.trajectories.join import trajectory_schema
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage

Array = np.ndarray[Any, np.dtype[Any]]
PROXY = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
         "num_attention_heads": 2}  # fmt: skip
SUMMARY = {"num_parameters": 29_536, "steps": 90, "exported_step": 90, "tally": {"tokens": 120_000},
           "train_tokens": 90_000, "device": "cpu"}  # fmt: skip
RATE = {"learning_rate": 0.003, "warmup_share": 0.1}
DATE = "2026-11-26T00:13:15+00:00"


def plain_text(row: int) -> tuple[str, str]:
    """Prompt and response of a row."""
    return f"What is {row} plus one?", f"It is {row + 1}."


@dataclass
class SelectedRun:
    """What to make: everything up to the subsets."""

    folder: Path
    num_examples: int = 900
    num_snapshots: int = 5
    num_clusters: int = 6
    sources: tuple[str, ...] = ("books", "forms", "puzzles")
    topics: tuple[str, ...] = ("add", "reverse", "spell", "sort")
    budgets: tuple[float, ...] = (0.2,)
    selectors: tuple[str, ...] = ("s2l", "random")
    examples_per_part: int = 256
    text: Callable[[int], tuple[str, str]] = plain_text
    quarantined: tuple[tuple[str, str], ...] = ()
    """(origin, reason)"""
    only_corpus: bool = False
    with_clusters: bool = True
    seed: int = 0

    # Made:
    storage: Storage = field(init=False)
    rng: np.random.Generator = field(init=False)
    config: S2LConfig = field(init=False)
    ids: Array = field(init=False)
    losses: Array = field(init=False)
    clusters: Array = field(init=False)
    source_codes: Array = field(init=False)
    topic_codes: Array = field(init=False)
    tokens: Array = field(init=False)
    chosen: dict[str, Array] = field(init=False, default_factory=dict)
    """Subset → rows."""

    def _config(self) -> S2LConfig:
        proxy = {"from_config": PROXY, "train_tokenizer": {"vocab_size": 300}, "render": "plain", "max_length": 64}
        generated = min(self.num_examples, 2_000_000)  # the generator's limit; nobody generates it
        return load_config({
            "name": "made", "run_dir": str(self.folder), "corpus": {"quickstart": {"num_examples": generated}},
            "proxy": proxy, "clusters": {"num_clusters": self.num_clusters},
            "selection": {"budgets": list(self.budgets), "selectors": list(self.selectors)},
            "heldout": {"share": 0.05}, "target": {**proxy, "max_steps": 90},
        })  # fmt: skip

    def _rows(self) -> None:
        n, rng = self.num_examples, self.rng
        ids = rng.integers(0, 2**63, (n, 2)).astype(np.uint64) * np.uint64(2)
        self.ids = ids[np.lexsort((ids[:, 1], ids[:, 0]))]
        self.source_codes = rng.integers(0, len(self.sources), n)
        weights = 1 / np.arange(1, len(self.topics) + 1)
        self.topic_codes = rng.choice(len(self.topics), n, p=weights / weights.sum())
        self.clusters = (
            (self.topic_codes * 7 + rng.integers(0, max(3, self.num_clusters // len(self.topics) + 1), n))
            % self.num_clusters
        ).astype(np.int32)
        self.tokens = rng.integers(2, 60, n).astype(np.int32)
        steps = np.arange(self.num_snapshots)
        speed = 0.1 + 0.9 * self.clusters / max(1, self.num_clusters)
        noise = rng.lognormal(0, 0.3, n)
        self.losses = (5.5 * noise[:, None] * np.exp(-speed[:, None] * steps)).astype(np.float32)
        size = self.examples_per_part
        self.parts = [(p, min(size, n - p * size)) for p in range(-(-n // size))]

    def stage(
        self, name: str, kind: str, inputs: dict[str, str], counts: dict[str, int], extra: dict[str, Any],
        files: dict[str, pa.Table | dict[str, Any]], settings: dict[str, Any] | None = None,
        seeds: dict[str, int] | None = None,
    ) -> str:  # fmt: skip
        """Write one complete stage; returns its content fingerprint."""
        key = fingerprint([name, inputs, settings or {}])
        in_folder = kind in ("subset", "target", "heldout_evaluation")
        short = f"{name}-{key[:8]}" if in_folder else f"{kind}/{key[:12]}"
        out = self.storage.sub(short).recording()
        for file, content in files.items():
            if isinstance(content, pa.Table):
                out.write_table(file, content)
            else:
                out.write_json(file, content)
        manifest = StageManifest(
            stage=name, key=key, settings=settings or {}, inputs=inputs, content_fingerprint=fingerprint([key]),
            row_counts=counts, outputs=list_outputs(out), seeds=seeds or {}, started_at=DATE, finished_at=DATE,
            wall_seconds=12.0, device_seconds=24.0, extra=extra, versions={"s2l_ray": "0.1.0", "python": "3.11.7"},
        )  # fmt: skip
        write_manifest(out, manifest)
        return manifest.content_fingerprint

    def _corpus(self) -> None:
        files: dict[str, Any] = {}
        for part, rows in self.parts:
            where = range(part * self.examples_per_part, part * self.examples_per_part + rows)
            files[f"examples/{part_name(part)}"] = self._examples(list(where))
        if self.quarantined:
            rows_ = [{"origin": o, "index": i, "reason": r, "text": r} for i, (o, r) in enumerate(self.quarantined)]
            files["quarantine/part-000000.parquet"] = pa.Table.from_pylist(rows_)
        counts = {"examples": self.num_examples, "duplicates": 12, "quarantined": len(self.quarantined), "held_out": 40}
        columns = [
            ["instruction", 0, "string"],
            ["output", 1, "string"],
            ["source", 2, "string"],
            ["topic", 3, "string"],
        ]
        extra = {
            "parts": [list(p) for p in self.parts], "format": "instruction", "columns": columns,
            "heldout": {"rows": 0, "parts": []}, "facets": {"topic": len(self.topics)},
        }  # fmt: skip
        settings = {"held_out": [0.05, 0]}
        self.corpus = self.stage("corpus", "corpus", {}, counts, extra, files, settings)

    def _examples(self, where: list[int]) -> pa.Table:
        texts = [self.text(row) for row in where]
        messages = [
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}] for prompt, answer in texts
        ]
        topics = [self.topics[self.topic_codes[i]] for i in where]
        rows = [json.dumps({"instruction": t[0], "topic": topic}) for t, topic in zip(texts, topics, strict=True)]
        facet = pa.array([self.topics[self.topic_codes[i]] for i in where]).dictionary_encode()
        table = pa.table(
            {
                "example_id": array_to_ids(self.ids[where]), "origin": ["made.jsonl"] * len(where), "index": where,
                "source": [self.sources[self.source_codes[i]] for i in where], "messages": messages, "row": rows,
            }
        ).cast(EXAMPLE_SCHEMA)  # fmt: skip
        return table.append_column("facet:topic", facet)

    def _tokens_and_proxy(self) -> None:
        counts = {"examples": self.num_examples, "sequences": self.num_examples, "quarantined": 0, "cut": 0}
        n = self.num_examples
        figures = TokensArtifact(
            parts=[], num_examples=n, num_sequences=n, num_quarantined=0, num_tokens=30_000, num_response_tokens=9_000,
            sum_squared_lengths=10**6, max_length=90, style="alpaca",
        )  # fmt: skip
        extra = figures.model_dump() | {"parts": [list(p) for p in self.parts]}
        files = {f"parts/{part_name(p)}": self._token_part(p, rows) for p, rows in self.parts}
        self.token_content = self.stage("tokens", "tokens", {"corpus": self.corpus}, counts, extra, files)
        means = self.losses.mean(axis=0)
        snapshots = [
            {"snapshot": t, "step": 1 + 20 * t, "weights": f"{t:016x}", "num_examples": self.num_examples,
             "mean_loss_nats": float(means[t])} for t in range(self.num_snapshots)
        ]  # fmt: skip
        extra = {"snapshots": snapshots, "flops": {"training": 3e9, "scoring": 1e9}, "summary": SUMMARY}
        inputs = {"tokens": self.token_content}
        self.proxy = self.stage("proxy", "proxy", inputs, {"scores": 1}, extra, {}, RATE, {"proxy": 0})

    def _token_part(self, part: int, rows: int) -> pa.Table:
        """Prompts of 1 to 9 tokens by the row, and two tokens of response."""
        start = part * self.examples_per_part
        lengths = [self.prompt_length(start + i) for i in range(rows)]
        columns = {
            "example_id": array_to_ids(self.ids[start : start + rows]),
            "source": [self.sources[self.source_codes[start + i]] for i in range(rows)],
            "input_ids": [[5] * (n + 2) for n in lengths],
            "response_mask": [[False] * n + [True, True] for n in lengths],
        }
        return pa.table(columns, schema=TOKEN_SCHEMA)

    @staticmethod
    def prompt_length(row: int) -> int:
        return 1 + row * 7 % 9

    def _trajectories(self) -> None:
        files = {}
        for part, rows in self.parts:
            at = slice(part * self.examples_per_part, part * self.examples_per_part + rows)
            losses = pa.FixedSizeListArray.from_arrays(pa.array(self.losses[at].reshape(-1)), self.num_snapshots)
            names = pa.array(self.sources).take(pa.array(self.source_codes[at]))
            schema = trajectory_schema(self.num_snapshots)
            columns = [array_to_ids(self.ids[at]), names, pa.array(self.tokens[at]), losses]
            files[part_name(part)] = pa.table(columns, schema=schema)
        inputs = {"corpus": self.corpus, "tokens": self.token_content, "proxy": self.proxy}
        extra = {"parts": [list(p) for p in self.parts], "num_snapshots": self.num_snapshots}
        counts = {"trajectories": self.num_examples}
        self.matrix = self.stage("trajectories", "trajectories", inputs, counts, extra, files)

    def _clusters(self) -> None:
        assignment = pa.table({"example_id": array_to_ids(self.ids), "cluster": pa.array(self.clusters)})
        counts = {"clusters": self.num_clusters, "examples": self.num_examples}
        sums = np.zeros((self.num_clusters, self.num_snapshots), np.float32)
        np.add.at(sums, self.clusters, self.losses)
        sizes = np.bincount(self.clusters, minlength=self.num_clusters)
        means = (sums / np.maximum(1, sizes)[:, None]).astype(np.float32)  # (K, T)
        centroids = pa.FixedSizeListArray.from_arrays(pa.array(means.reshape(-1)), self.num_snapshots)
        files: dict[str, Any] = {
            "assignment.parquet": assignment, "centroids.parquet": pa.table({"centroid_loss_nats": centroids}),
        }  # fmt: skip
        self.cluster_content = self.stage(
            "clusters", "clusters", {"trajectories": self.matrix}, counts, {}, files,
            {"num_snapshots": None, "snapshots": "even"},
        )  # fmt: skip

    def _subsets(self) -> None:
        for selector in self.selectors:
            for budget in self.budgets:
                self.subset(selector, budget)

    def subset(self, selector: str, budget: float, seed: int = 0) -> str:
        """Choose by the real selector, and write it."""
        inputs = SelectionInputs(
            example_ids=self.ids, clusters=self.clusters, sources=self.source_codes.astype(np.int32),
            source_names=list(self.sources),
        )  # fmt: skip
        count = resolve_budget(budget, self.num_examples)
        selection = order_examples(selector, inputs, seed).take(count)
        rows = selection.rows
        label = f"{selector}-{budget!r}"
        self.chosen[label] = rows
        table = pa.table(
            {
                "example_id": array_to_ids(self.ids[rows]), "s2l_id": array_to_hex(self.ids[rows]),
                "part": pa.array(rows // self.examples_per_part), "s2l_cluster": pa.array(self.clusters[rows]),
                "s2l_rank": pa.array(selection.rank.astype(np.int64)),
            }
        )  # fmt: skip
        extra = {"files": ["subset.jsonl"], "selector": selector, "budget": budget, "per_source": {}}
        reads = {"corpus": self.corpus, "trajectories": self.matrix, "clusters": self.cluster_content}
        settings = {"selector": selector, "budget": count, "seed": seed, "stratify": False}
        return self.stage(
            f"subset/{label}", "subset", reads, {"examples": len(rows)}, extra, {"ids.parquet": table}, settings,
            {"selection": seed},
        )  # fmt: skip
