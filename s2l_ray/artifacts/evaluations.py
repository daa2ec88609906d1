"""Figures of held-out evaluations, including metrics that were registered after the scores were computed."""

from __future__ import annotations

import functools
from typing import Any

import pyarrow as pa

from s2l_ray.artifacts.models import HeldOutEvaluationArtifact
from s2l_ray.artifacts.stage import Stage
from s2l_ray.evaluation.heldout import SCORES, results_of
from s2l_ray.evaluation.metrics import SetResult, registered_metrics
from s2l_ray.storage.folder import Storage

Results = dict[str, SetResult]


def results_after(evaluation: Stage) -> Results:
    """Return every known metric for each held-out set.

    The package's own metrics are stored. Registered metrics are computed from the stored scores on every request,
    because their names may later denote something else.

    Raises:
        MetricError: a registered metric fails.
    """
    stored = {name: SetResult.of(plain) for name, plain in HeldOutEvaluationArtifact.of(evaluation).results.items()}
    outside = registered_metrics()
    if not outside:
        return stored
    more = results_of(read_scores(evaluation), outside)
    return {name: _joined(result, more[name]) for name, result in stored.items()}


def results_before_and_after(evaluation: Stage) -> dict[str, dict[str, Any]]:
    """Return figures `before` and `after` training for each held-out set, as plain data; None if unknown."""
    before = HeldOutEvaluationArtifact.of(evaluation).before
    return {
        name: {"before": before.get(name), "after": result.plain()}
        for name, result in results_after(evaluation).items()
    }


def read_scores(evaluation: Stage) -> pa.Table:
    """Read the scores; see evaluation.heldout.SCORE_SCHEMA.

    Raises:
        MissingFile, DamagedFile: the file is missing, or not what was written.
    """
    return _scores(evaluation.storage, evaluation.manifest.digest)


@functools.lru_cache(maxsize=16)
def _scores(storage: Storage, digest: str) -> pa.Table:
    return storage.read_table(SCORES)


def _joined(one: SetResult, more: SetResult) -> SetResult:
    sources = {name: figures | more.per_source[name] for name, figures in one.per_source.items()}
    return SetResult(one.num_examples, one.figures | more.figures, sources)
