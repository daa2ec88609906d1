"""The corpus and the held-out sets, with the facts that the evaluation has about sets with these names."""

from __future__ import annotations

from s2l_ray.artifacts.models import HeldOutEvaluationArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.evaluation.tasks import BUILT_IN
from s2l_ray.reporting.facts import DataSet
from s2l_ray.text.display import printable

DOMAINS = {"in": "in the training data’s", "out": "outside the training data’s"}


def data_sets(run: Run, num_examples: int | None, num_sources: int | None) -> list[DataSet]:
    """The data sets, the corpus first.

    Args:
        num_examples, num_sources: of the corpus, if known.
    """
    found = [] if num_examples is None else [DataSet(run.config.name, "selection", num_examples, num_sources, "", "")]
    heldout = run.stages.get("heldout")
    if heldout is None:
        return found
    target = next(iter(run.targets.values()), None)
    evaluation = None if target is None else run.heldout_evaluation(target)
    results = {} if evaluation is None else HeldOutEvaluationArtifact.of(evaluation).results
    for name, num in heldout.manifest.row_counts.items():
        known = BUILT_IN.get(name.lower())
        per_source = results.get(name, {}).get("per_source")
        found.append(
            DataSet(
                printable(known.title if known else name), "evaluation", num,
                len(per_source) if per_source else None, known.level if known else "",
                DOMAINS.get(known.domain, "") if known else "",
            )
        )  # fmt: skip
    return found
