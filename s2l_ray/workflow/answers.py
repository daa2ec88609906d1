"""Models' answers to test questions for all training seeds, aligned by question."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from s2l_ray.artifacts.manifest import ManifestError, read_manifest
from s2l_ray.artifacts.models import EvaluationArtifact
from s2l_ray.artifacts.results import Evaluation
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.evaluation.seeds import SeedsComparison, compare_over_seeds
from s2l_ray.evaluation.summaries import ROUGE_TYPES, bleu

Array = np.ndarray[Any, np.dtype[Any]]

COMPARED = ("correct", "bleu", "rougeL", "bertscore")
"""Metrics by which models are compared."""
_VERDICTS = ("correct", "correct_published", "first")
_SUMMARIES = (*ROUGE_TYPES, "bertscore")
_FOLDER = "evaluation"
_JUDGING = ("seed", "confidence")
"""Settings of an evaluation that may differ between the seeds of one model."""


@dataclass
class Answers:
    """One model's answers to one task, for S training seeds and the N questions that all of them were asked."""

    model: str
    task: str
    evaluations: dict[int, Evaluation]
    """Training seed → verdicts; the first is that of the run's own target."""
    ids: list[bytes]
    """Ids of the N questions, sorted."""
    values: dict[str, Array]
    """Metric → (S, N) values; for BLEU, (S, N, 10) n-gram counts."""
    parts: dict[str, Array]
    """`clean`, `contaminated`, `normal`, `abnormal` → (N,) bool; left out if all or none of the questions belong to
    it."""
    groups: list[dict[str, str]]
    """Column → value of each question, for the columns that the report splits by."""

    @cached_property
    def report(self) -> Mapping[str, Any]:
        """The report on the run's own target."""
        return next(iter(self.evaluations.values())).report

    @property
    def made(self) -> EvaluationArtifact:
        """The artifact of the run's own target."""
        return EvaluationArtifact.of(next(iter(self.evaluations.values())))

    @property
    def is_judged(self) -> bool:
        """Whether the task's answers are judged right or wrong."""
        return "correct" in self.values

    @property
    def seeds(self) -> list[int]:
        return list(self.evaluations)

    @property
    def way(self) -> str:
        """How the text was generated (engine, precision, device): another way gives other text, whatever the model."""
        return self.made.way

    def of(self, metric: str, ids: Sequence[bytes], seeds: Sequence[int]) -> Array:
        """The metric's values for these questions and seeds only."""
        place = {one: i for i, one in enumerate(self.ids)}
        rows = [self.seeds.index(seed) for seed in seeds]
        found: Array = self.values[metric][rows][:, [place[one] for one in ids]]
        return found


@dataclass(frozen=True)
class OverSeeds:
    """A comparison of two models, paired by training seed and question."""

    told: SeedsComparison
    num_questions: int


def common_seeds(found: Sequence[Answers]) -> list[int]:
    """Training seeds that all of them have."""
    return [seed for seed in found[0].seeds if all(seed in one.seeds for one in found)]


def compare_seeds(
    tasks: Mapping[str, tuple[Answers, Answers]], metric: str, rng: np.random.Generator, resamples: int, level: float
) -> OverSeeds | None:
    """Compare the means over the tasks, first minus second, by a bootstrap that draws seeds, then questions; None if
    the models have fewer than two seeds, or no question of a task, in common."""
    common = common_seeds([one for both in tasks.values() for one in both])
    ids = {task: sorted(set(one.ids) & set(other.ids)) for task, (one, other) in tasks.items()}
    if len(common) < 2 or not all(ids.values()):
        return None
    first, second = ({task: both[i].of(metric, ids[task], common) for task, both in tasks.items()} for i in (0, 1))
    told = compare_over_seeds(first, second, rng, resamples, level, statistic_of(metric))
    return OverSeeds(told, sum(map(len, ids.values())))


def statistic_of(metric: str) -> Any:
    """The function that turns sums over questions into the metric; None for their mean."""
    return bleu if metric == "bleu" else None


def read_answers(run: Run, labels: Collection[str] | None = None) -> list[Answers]:
    """Read the answers of all of the run's models and tasks, or only those of the models in `labels`.

    Raises:
        DamagedFile, MissingFile: an artifact is damaged or missing.
    """
    asked = {key: one for key, one in run.evaluations.items() if labels is None or key[0] in labels}
    models = {model for model, _ in asked if model in run.targets}
    targets = {model: run.seeds_of(model) for model in models}
    every = _all_evaluations(run) if any(len(seeds) > 1 for seeds in targets.values()) else []
    return [_read(model, task, _by_seed(targets.get(model, {}), own, every)) for (model, task), own in asked.items()]


def _all_evaluations(run: Run) -> list[Evaluation]:
    """All evaluations in the run's folder, including those of other seeds of its targets; damaged ones are left out,
    since the run's index reports them."""
    found = []
    for name in run.storage.folders(_FOLDER):
        folder = run.storage.sub(_FOLDER, name)
        try:
            manifest = read_manifest(folder)
        except ManifestError:
            continue
        if manifest is not None and name.endswith(f"-{manifest.key[:8]}"):
            found.append(Evaluation(manifest.stage, f"{_FOLDER}/{name}", folder, manifest))
    return found


def _by_seed(targets: Mapping[int, Stage], own: Evaluation, every: Sequence[Evaluation]) -> dict[int, Evaluation]:
    """Training seed → evaluation: the run's own first, then those of the target's other seeds that were judged alike.

    Args:
        targets: seed → target, the run's own first; empty for a model that was not trained here, whose seed is 0.
    """
    first, *others = [*targets] or [0]
    seeds = {targets[seed].content: seed for seed in others}
    found: dict[int, Evaluation] = {}
    for one in every:
        seed = seeds.get(one.manifest.inputs.get("model", ""))
        if seed is not None and _is_judged_alike(one, own):
            found[seed] = one
    return {first: own, **dict(sorted(found.items()))}


def _is_judged_alike(one: Evaluation, own: Evaluation) -> bool:
    """Whether both evaluations have the same task, rules, form, questions and engine."""
    made = [EvaluationArtifact.of(stage) for stage in (one, own)]
    ways = [(m.task, m.form, m.way) for m in made]
    read = [[stage.manifest.inputs.get(name) for name in ("questions", "corpus")] for stage in (one, own)]
    settings = [{k: v for k, v in stage.manifest.settings.items() if k not in _JUDGING} for stage in (one, own)]
    return ways[0] == ways[1] and read[0] == read[1] and settings[0] == settings[1]


def _read(model: str, task: str, evaluations: dict[int, Evaluation]) -> Answers:
    tables = {seed: one.answers() for seed, one in evaluations.items()}
    ids = sorted(set.intersection(*(set(table["question_id"].to_pylist()) for table in tables.values())))
    orders = {seed: _order(table["question_id"].to_pylist(), ids) for seed, table in tables.items()}
    first = next(iter(tables.values())).take(next(iter(orders.values())))
    values: dict[str, Array] = {}
    names = [n for n in first.column_names if n in (*_VERDICTS, *_SUMMARIES) or n.startswith("own/")]
    for name in ["bleu_counts"] * ("bleu_counts" in first.column_names) + names:
        if all(name in table.column_names and table[name].null_count == 0 for table in tables.values()):
            rows = [table[name].take(orders[seed]).to_pylist() for seed, table in tables.items()]
            values["bleu" if name == "bleu_counts" else name] = np.array(rows, dtype=np.float64)
    groups = [dict(pairs) for pairs in first["groups"].to_pylist()]
    return Answers(model, task, evaluations, ids, values, _parts(first), groups)


def _order(found: list[bytes], ids: list[bytes]) -> list[int]:
    place = {one: i for i, one in enumerate(found)}
    return [place[one] for one in ids]


def _parts(table: Any) -> dict[str, Array]:
    parts: dict[str, Array] = {}
    for column, yes, no in (("contaminated", "contaminated", "clean"), ("normal", "normal", "abnormal")):
        if column in table.column_names:
            mine = np.array(table[column].to_pylist(), dtype=bool)
            parts |= {no: ~mine, yes: mine} if mine.any() and not mine.all() else {}
    return parts
