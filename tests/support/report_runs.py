"""Runs made in a second, for the report's tests: real artifacts written by the project's own storage, with
losses, choices and evaluations that are made up by a seed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.config import to_yaml
from s2l_ray.data.example_id import array_to_ids
from s2l_ray.evaluation.heldout import SCORES, results_of, score_table
from s2l_ray.evaluation.metrics import built_in_metrics
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.results import result_schema
from tests.support.selected_runs import DATE, RATE, SUMMARY, Array, SelectedRun


@dataclass
class MadeRun(SelectedRun):
    """What to make: a run to its end."""

    targets: tuple[str, ...] = ("full", "s2l-0.2", "random-0.2")
    heldout: dict[str, int] = field(default_factory=lambda: {"balanced": 400, "split": 150})
    gains: dict[str, float] = field(default_factory=lambda: {"s2l-0.2": 0.25, "random-0.2": -0.1})
    """Target → how much lower its losses are than the full data's (nats/token)."""
    seeds: tuple[int, ...] = (0,)

    # Made:
    evaluated: dict[tuple[str, int, str], tuple[Array, Array]] = field(init=False, default_factory=dict)
    """(target, seed, set) → (losses, exact matches) by example id."""
    trained: dict[tuple[str, int], dict[str, Any]] = field(init=False, default_factory=dict)
    """(target, seed) → folder, examples, and figures by set."""

    def make(self) -> Path:
        """Write everything; returns the folder."""
        self.storage = Storage.open(str(self.folder))
        self.rng = np.random.default_rng(self.seed)
        self.config = self._config()
        self.storage.write_bytes("config.yaml", to_yaml(self.config).encode())
        self._rows()
        self._corpus()
        if self.only_corpus:
            return self.folder
        self._tokens_and_proxy()
        self._trajectories()
        if self.with_clusters:
            self._clusters()
            self._subsets()
            self._targets()
        self._events()
        return self.folder

    def _targets(self) -> None:
        self.held: dict[str, tuple[Array, Array, Array]] = {}
        files: dict[str, Any] = {}
        for name, count in self.heldout.items():
            ids = self.rng.integers(0, 2**63, (count, 2)).astype(np.uint64)
            ids = ids[np.lexsort((ids[:, 1], ids[:, 0]))]
            sources = self.rng.integers(0, len(self.sources), count)
            self.held[name] = ids, sources, self.rng.gamma(2.0, 0.4, count)
            named = pa.array(self.sources).take(pa.array(sources))
            files[f"{name}.parquet"] = pa.table({"example_id": array_to_ids(ids), "source": named})
        if not self.targets:
            return
        inputs = {"corpus": self.corpus}
        self.heldout_content = self.stage("heldout", "heldout", inputs, dict(self.heldout), {}, files)
        subsets = {label: self._content(f"subset/{label}") for label in self.chosen}
        for label in self.targets:
            tokens = self.token_content
            if label != "full":
                reads = {"corpus": self.corpus, "subset": subsets[label]}
                tokens = self.stage(f"target-tokens/{label}", "tokens", reads, {"examples": 1}, {}, {})
            for seed in self.seeds:
                self.target(label, tokens, seed)

    def _content(self, name: str) -> str:
        [folder] = self.folder.glob(f"{name}-*")
        return str(json.loads((folder / "manifest.json").read_text())["content_fingerprint"])

    def target(self, label: str, tokens: str, seed: int) -> None:
        """A target with its evaluation on the held-out sets."""
        tables: list[pa.Table] = []
        for name, (ids, sources, base) in self.held.items():
            noise = np.random.default_rng([seed, len(ids), sum(label.encode())]).normal(0, 0.05, len(ids))
            losses = np.maximum(base - self.gains.get(label, 0.0) + noise, 0.01).astype(np.float32)
            exact = losses < 0.5
            self.evaluated[label, seed, name] = losses, exact
            names = np.array(self.sources, object)[sources]
            counts = np.arange(2, 2 + len(ids), dtype=np.int32) % 11 + 1
            tables.append(score_table(name, ids, names, losses, counts, exact))
        table = pa.concat_tables(tables)
        results = {name: result.plain() for name, result in results_of(table, built_in_metrics()).items()}
        count = self.num_examples if label == "full" else len(self.chosen[label])
        extra = {"subset": label, "memory": {}, "summary": SUMMARY | {"flops": 2e10 * count / self.num_examples}}
        settings = {"seed": seed, "global_batch_size": 64, "total_steps": 90, **RATE}
        inputs = {"tokens": tokens}
        content = self.stage(
            f"target/{label}", "target", inputs, {"examples": count}, extra, {}, settings, {"target": seed}
        )
        key = fingerprint([f"target/{label}", inputs, settings])
        evaluation = self.evaluation(label, content, table, results)
        self.trained[label, seed] = {
            "folder": f"target/{label}-{key[:8]}", "evaluation": evaluation, "count": count, "results": results,
        }  # fmt: skip

    def evaluation(self, label: str, target: str, table: pa.Table, results: dict[str, Any]) -> str:
        """→ its folder."""
        before = {name: plain | {"micro": 5.5} for name, plain in results.items()}
        name, inputs = f"heldout_evaluation/{label}", {"target": target, "heldout": self.heldout_content, "base": "b"}
        extra = {"model": label, "step": 90, "results": results, "before": before}
        self.stage(name, "heldout_evaluation", inputs, dict(self.heldout), extra, {SCORES: table})
        return f"{name}-{fingerprint([name, inputs, {}])[:8]}"

    def sweep(self, metric: str = "macro", within: float = 0.01, tuned: bool = False) -> None:
        """Write the table and report of a sweep over all targets."""
        rows: list[dict[str, Any]] = []
        for (label, seed), one in self.trained.items():
            selector = label.partition("-")[0]
            budget = 1.0 if selector == "full" else float(label.partition("-")[2])
            for name, figures in one["results"].items():
                row = {
                    "phase": "target", "trial": label, "selector": selector, "budget": budget, "budget_unit": "share",
                    "num_examples": one["count"], "share": one["count"] / self.num_examples, "seed": seed,
                    "parameters": "{}", "heldout_set": name, "source": None, "loss": figures["micro"],
                    "macro": figures["macro"], "per_token": figures["per_token"], "exact_match": figures["exact_match"],
                    "folder": one["folder"], "evaluation": one["evaluation"], "flops": 2e10 * budget,
                }  # fmt: skip
                rows.append(row)
                for source, own in figures["per_source"].items():
                    rows.append(row | {"source": source, "loss": own["loss"], "macro": None, "per_token": None})
                if tuned and selector == "s2l":
                    for value in (1, 3):
                        settings = json.dumps({"clusters.num_snapshots": value})
                        rows.append(row | {"parameters": settings, "macro": figures["macro"] + 0.1 / value})
        self.storage.write_table("sweep/results.parquet", pa.Table.from_pylist(rows, schema=result_schema()))
        smallest = {"s2l": {"share": min(r["share"] for r in rows if r["selector"] == "s2l")}, "random": None}
        report = {"metric": metric, "within": within, "smallest": smallest, "prediction": {"rank_correlation": 0.9},
                  "cost": {"selection": {"flops": 4e9}}}  # fmt: skip
        self.storage.write_json("sweep/report.json", report)

    def _events(self) -> None:
        lines: list[dict[str, Any]] = []
        for kind in ("proxy", "target"):
            for folder in sorted(self.folder.glob(f"{kind}/*")):
                stage = "proxy" if kind == "proxy" else f"target/{folder.name[:-9]}"
                lines.append({"stage": stage, "event": "stage_started", "folder": f"{kind}/{folder.name}"})
                lines += [
                    {"stage": stage, "event": "train", "step": step, "loss_nats": 5.0 / (1 + step / 10)}
                    for step in range(10, 100, 10)
                ]
        text = "".join(json.dumps({"time": DATE, **line}) + "\n" for line in lines)
        self.storage.write_bytes("metrics.jsonl", text.encode())
