"""Results of the gradient check as in its gradients.json; the page computes no numbers of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2l_ray.artifacts.results import GradientCheck
from s2l_ray.artifacts.run import Run
from s2l_ray.selection.gradient_errors import GradientError
from s2l_ray.selection.gradient_similarity import Interval, Similarity
from s2l_ray.selection.gradient_verdict import SnapshotFindings


@dataclass(frozen=True)
class GradientFacts:
    kind: str
    """`head` or `lora`."""
    num_examples: int
    """Number of examples in the corpus."""
    num_sampled: int
    snapshots: list[SnapshotFindings]
    verdict: list[str]
    notes: list[str]


def gradient_facts(run: Run) -> GradientFacts | None:
    """The run's gradient check; None if there is none."""
    if "gradient-check" not in run.stages:
        return None
    made = GradientCheck.of(run.stages["gradient-check"]).report
    return GradientFacts(
        made["kind"], made["num_examples"], made["num_sampled"], [_findings(one) for one in made["snapshots"]],
        made["verdict"], made["notes"],
    )  # fmt: skip


def _findings(made: Mapping[str, Any]) -> SnapshotFindings:
    similarity = {kind: _similarity(of) for kind, of in made["similarity"].items()}
    errors = {name: GradientError(**_with_intervals(of)) for name, of in made["errors"].items()}
    return SnapshotFindings(made["name"], made["step"], made["num_zero"], similarity, made["gap"], errors)


def _similarity(made: Mapping[str, Any]) -> Similarity:
    null = made["null_difference"]
    return Similarity(**_with_intervals(made) | {"null_difference": None if null is None else tuple(null)})


def _with_intervals(made: Mapping[str, Any]) -> dict[str, Any]:
    return {name: Interval(**value) if isinstance(value, dict) else value for name, value in made.items()}
