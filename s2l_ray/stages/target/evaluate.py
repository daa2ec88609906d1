"""Held-out losses of the target while it trains, by the same scorer as the trajectories'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.data.example_id import array_to_ids
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.token_parts import to_examples
from s2l_ray.evaluation.metrics import SetResult, scored_examples, summarise
from s2l_ray.lm.batches import Batching
from s2l_ray.lm.score import NonFiniteScore, Scorer, Scores
from s2l_ray.lm.worker import WorkerContext
from s2l_ray.stages.target.job import TargetJob
from s2l_ray.stages.target.model import TargetModel
from s2l_ray.storage.folder import Storage

_FOLDER = "evaluations"


def evaluation_name(step: int, ending: str) -> str:
    return f"{_FOLDER}/step-{step:08d}.{ending}"


def read_evaluation(out: Storage, step: int) -> dict[str, SetResult] | None:
    """Results by held-out set, of the weights after `step` steps; None if they were not evaluated."""
    name = evaluation_name(step, "json")
    return {n: SetResult.of(r) for n, r in out.read_json(name).items()} if out.exists(name) else None


class Evaluator:
    """Evaluates on all workers and remembers which step was best. The first set's macro loss decides."""

    def __init__(self, job: TargetJob, worker: WorkerContext, built: TargetModel, batching: Batching) -> None:
        self.job, self.worker = job, worker
        self._scorer = Scorer(
            built.engine.loss, batching, tokens_per_batch=job.heldout_tokens_per_batch, device=worker.device,
        )  # fmt: skip
        self._sets: dict[str, tuple[Examples, np.ndarray]] = {}
        for name in job.heldout_names:
            assert job.heldout is not None
            table = job.heldout.read_table(f"{name}.parquet")
            self._sets[name] = (to_examples(table), table["source"].to_numpy(zero_copy_only=False))
        self._history: list[tuple[int, float]] = self._past()

    def _past(self) -> list[tuple[int, float]]:
        """(step, deciding loss) of what lies on storage: an interrupted training knows what it saw."""
        found: list[tuple[int, float]] = []
        if self.worker.rank == 0 and self._sets:
            for entry in self.job.out.list(_FOLDER):
                if entry.name.endswith(".json"):
                    step = int(entry.name.rsplit("step-", 1)[1].removesuffix(".json"))
                    results = read_evaluation(self.job.out, step)
                    assert results is not None
                    found.append((step, self._objective(results)))
        return self.worker.broadcast(sorted(found))

    def _objective(self, results: dict[str, SetResult]) -> float:
        return results[self.job.heldout_names[0]]["macro"]

    def best_step(self, now: int) -> int | None:
        """Of the trained weights, up to step `now`: after an interruption the history reaches beyond it."""
        trained = [(loss, step) for step, loss in self._history if 0 < step <= now]
        return min(trained)[1] if trained else None

    def without_gain(self, now: int) -> int:
        """Evaluations since the best one, up to step `now`."""
        best = self.best_step(now)
        return 0 if best is None else sum(best < step <= now for step, _ in self._history)

    def evaluate(self, step: int, if_best: Callable[[], None] | None) -> None:
        """Evaluate, unless that was done before an interruption; `if_best` runs before the result is written."""
        if not self._sets or step in dict(self._history):
            return
        results: dict[str, SetResult] = {}
        tables: list[pa.Table] = []
        for name, (examples, sources) in self._sets.items():
            results[name], table = self._one(name, examples, sources)
            tables.append(table)
        self._history.append((step, self._objective(results)))
        if if_best is not None and self.best_step(step) == step:
            if_best()
        if self.worker.rank == 0:
            self.job.out.write_table(evaluation_name(step, "parquet"), pa.concat_tables(tables), compression="zstd")
            self.job.out.write_json(evaluation_name(step, "json"), {n: r.plain() for n, r in results.items()})
            self.worker.emit(event="evaluation", step=step, results={n: r.plain() for n, r in results.items()})
        if step < self.job.plan.total_steps:  # nobody is to stop a training that is at its end
            deciding = results[self.job.objective_set or self.job.heldout_names[0]].plain()[self.job.objective_metric]
            self.worker.report({"step": step, "objective": deciding})

    def _one(self, name: str, examples: Examples, sources: np.ndarray) -> tuple[SetResult, pa.Table]:
        batches = self._scorer.plan(examples.lengths)
        # Every worker the same number of passes: sharded weights are fetched by all workers together.
        empty = np.zeros(0, dtype=np.int64)
        batches += [empty] * (-len(batches) % self.worker.num_workers)
        mine = self._scorer.score(examples, batches[self.worker.rank :: self.worker.num_workers], want_exact=True)
        scores: list[Scores] = self.worker.all_gather(mine)
        order = np.argsort(np.concatenate([s.rows for s in scores]))
        losses, counts = (np.concatenate([getattr(s, c) for s in scores])[order] for c in ("losses", "counts"))
        exact = np.concatenate([s.exact for s in scores if s.exact is not None])[order]
        wrong = int((~np.isfinite(losses)).sum())
        if wrong:
            raise NonFiniteScore(
                f"{wrong} of {len(losses)} held-out losses ({name}) are not finite: the target has diverged or "
                "overflows; lower target.learning_rate, or set target.precision=fp32"
            )
        result = summarise(scored_examples(losses, counts, exact, sources), self.job.metrics)
        return result, _table(name, examples, losses, exact)


def _table(name: str, examples: Examples, losses: np.ndarray, exact: np.ndarray) -> pa.Table:
    columns: dict[str, Any] = {
        "heldout_set": pa.array([name] * len(losses)).dictionary_encode(),
        "example_id": array_to_ids(examples.ids),
        "loss_nats": pa.array(losses),
        "exact_match": pa.array(exact),
    }
    return pa.table(columns)
