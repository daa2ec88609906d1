"""Figures of held-out evaluations, also by metrics that were registered after the scores were made."""

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
    """Held-out set → every known metric.

    What the package's own metrics give is stored. Those from outside are computed of the stored scores whenever they
    are asked for: their names may mean something else tomorrow.

    Raises:
        MetricError: one from outside fails.
    """
    stored = {name: SetResult.of(plain) for name, plain in HeldOutEvaluationArtifact.of(evaluation).results.items()}
    outside = registered_metrics()
    if not outside:
        return stored
    more = results_of(read_scores(evaluation), outside)
    return {name: _joined(result, more[name]) for name, result in stored.items()}


def results_before_and_after(evaluation: Stage) -> dict[str, dict[str, Any]]:
    """Held-out set → `before` and `after` training, as plain data; `before` is None where it is not known."""
    before = HeldOutEvaluationArtifact.of(evaluation).before
    return {
        name: {"before": before.get(name), "after": result.plain()}
        for name, result in results_after(evaluation).items()
    }


def read_scores(evaluation: Stage) -> pa.Table:
    """The scores, see evaluation.heldout.SCORE_SCHEMA.

    Raises:
        MissingFile, DamagedFile: they are not what was written.
    """
    return _scores(evaluation.storage, evaluation.manifest.digest)


@functools.lru_cache(maxsize=16)
def _scores(storage: Storage, digest: str) -> pa.Table:
    return storage.read_table(SCORES)


def _joined(one: SetResult, more: SetResult) -> SetResult:
    sources = {name: figures | more.per_source[name] for name, figures in one.per_source.items()}
    return SetResult(one.num_examples, one.figures | more.figures, sources)
