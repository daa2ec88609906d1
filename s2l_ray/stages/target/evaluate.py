"""Measures held-out losses during training, for decisions that depend on them and for the curve.

`keep_best` and `patience` monitor one set, whose results are stored next to the model, so that a resumed training knows
them. A sweep's scheduler gets its own metric. Everything else is an event in the run's record; the finished target is
evaluated by a separate stage.
"""

from __future__ import annotations

from collections.abc import Callable

from s2l_ray.evaluation.heldout import scored_of
from s2l_ray.evaluation.metrics import ScoredExamples, SetResult, summarise
from s2l_ray.lm.batches import Batching
from s2l_ray.lm.heldout import score_set
from s2l_ray.lm.score import Scorer
from s2l_ray.lm.worker import WorkerContext
from s2l_ray.stages.target.job import TargetJob
from s2l_ray.stages.target.model import TargetModel
from s2l_ray.storage.folder import Storage

_FOLDER = "evaluations"
_DECIDES = "macro"
"""The metric that `keep_best` and `patience` monitor."""


def evaluation_name(step: int) -> str:
    return f"{_FOLDER}/step-{step:08d}.json"


def read_evaluation(out: Storage, step: int) -> SetResult | None:
    """The monitored set's result for the weights after `step` steps; None if they were not evaluated."""
    name = evaluation_name(step)
    return SetResult.of(out.read_json(name)) if out.exists(name) else None


class Evaluator:
    """Evaluates on all workers, and remembers which step was best."""

    def __init__(self, job: TargetJob, worker: WorkerContext, built: TargetModel, batching: Batching) -> None:
        self.job, self.worker, self.watched = job, worker, job.watched
        self._history: list[tuple[int, float]] = self._past() if job.deciding_set else []
        if self.watched is None:
            return
        self._scorer = Scorer(
            built.engine.loss, batching, tokens_per_batch=self.watched.tokens_per_batch, device=worker.device,
        )  # fmt: skip
        self._sets = {name: self.watched.read(name) for name in self.watched.names}

    def _past(self) -> list[tuple[int, float]]:
        """(step, monitored loss) of the evaluations on storage."""
        found: list[tuple[int, float]] = []
        if self.worker.rank == 0:
            for entry in self.job.out.list(_FOLDER):
                step = int(entry.name.rsplit("step-", 1)[1].removesuffix(".json"))
                result = read_evaluation(self.job.out, step)
                assert result is not None
                found.append((step, result[_DECIDES]))
        return self.worker.broadcast(sorted(found))

    def is_due(self, step: int, restored_at: int) -> bool:
        """Whether to evaluate the current weights; the last ones only if they could be chosen as the best."""
        if self.watched is None or step == 0:
            return False
        if self.job.deciding_set is None:  # evaluations before an interruption are in the record already
            return step % self.job.evaluate_every == 0 and step not in (restored_at, self.job.plan.total_steps)
        return step % self.job.evaluate_every == 0 or step == self.job.plan.total_steps

    def best_step(self, now: int) -> int | None:
        """The step with the best weights up to step `now`; after an interruption, the history may extend beyond it."""
        trained = [(loss, step) for step, loss in self._history if step <= now]
        return min(trained)[1] if trained else None

    def without_gain(self, now: int) -> int:
        """Number of evaluations since the best one, up to step `now`."""
        best = self.best_step(now)
        return 0 if best is None else sum(best < step <= now for step, _ in self._history)

    def evaluate(self, step: int, if_best: Callable[[], None] | None) -> None:
        """Evaluate, unless this step was evaluated before an interruption; `if_best` runs before the result is
        written."""
        if step in dict(self._history):
            return
        scored = {
            name: scored_of(score_set(self._scorer, self.worker, name, examples, sources))
            for name, (examples, sources) in self._sets.items()
        }
        results = {name: summarise(one, self.job.metrics) for name, one in scored.items()}
        deciding = self.job.deciding_set
        if deciding is not None:
            self._history.append((step, results[deciding][_DECIDES]))
            if if_best is not None and self.best_step(step) == step:
                if_best()
        if self.worker.rank == 0:
            # Before the result is written: a stored result is not evaluated again, so its event would be missing.
            self.worker.emit(event="evaluation", step=step, results={n: r.plain() for n, r in results.items()})
            if deciding is not None:
                self.job.out.write_json(evaluation_name(step), results[deciding].plain())
        self._report(step, scored)

    def _report(self, step: int, scored: dict[str, ScoredExamples]) -> None:
        """Report to the scheduler, but not at the last step: it must not stop a training that is complete."""
        if self.job.objective is not None and step < self.job.plan.total_steps:
            name, metric = self.job.objective
            self.worker.report({"step": step, "objective": metric.of(scored[name])})
