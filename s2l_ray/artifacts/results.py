"""Typed results of a run: subsets, targets, evaluations and gradient checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import Self

from s2l_ray.artifacts.evaluations import results_before_and_after
from s2l_ray.artifacts.models import EvaluationArtifact, GradientCheckArtifact, SubsetArtifact
from s2l_ray.artifacts.stage import Stage


@dataclass
class _Result(Stage):
    @classmethod
    def of(cls, stage: Stage) -> Self:
        """Return the same stage as this class."""
        return cls(stage.name, stage.folder, stage.storage, stage.manifest, stage.reused)

    @property
    def label(self) -> str:
        """Name of the stage among those of its kind: `s2l-0.11`, `full`."""
        return self.name.partition("/")[2] or self.name


@dataclass
class Subset(_Result):
    """A selected subset."""

    @property
    def files(self) -> list[str]:
        """URIs of the subset's files; train on the first, `subset.jsonl`."""
        return [self.storage.uri_of(name) for name in SubsetArtifact.of(self).files]

    @property
    def num_examples(self) -> int:
        """Number of selected examples."""
        return self.manifest.row_counts["examples"]

    @property
    def per_source(self) -> Mapping[str, int]:
        """Number of selected examples of each source."""
        return SubsetArtifact.of(self).per_source


@dataclass
class Target(_Result):
    """A fine-tuned target."""

    @property
    def model_uri(self) -> str:
        """URI of the model folder, which `from_pretrained` loads."""
        return self.storage.uri_of("model")

    heldout_evaluation: Stage | None = None
    """Stage with the target's scores on the held-out sets; None if there are none."""

    @classmethod
    def evaluated(cls, stage: Stage, evaluation: Stage | None) -> Self:
        """Return a target's stage together with that of its evaluation."""
        target = cls.of(stage)
        target.heldout_evaluation = evaluation
        return target

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """Results by held-out set, `before` and `after` training, and metric: `micro` (mean loss over examples),
        `macro` (over sources), `per_token`, all in nats per response token, `exact_match`, and registered metrics."""
        return {} if self.heldout_evaluation is None else results_before_and_after(self.heldout_evaluation)


@dataclass
class GradientCheck(_Result):
    """Comparison of gradients within and across clusters, and of subsets' mean gradients with the corpus's."""

    @property
    def verdict(self) -> list[str]:
        """Conclusions in sentences, most important first."""
        return GradientCheckArtifact.of(self).verdict

    @property
    def report(self) -> Mapping[str, Any]:
        """Content of gradients.json: `verdict`, and `similarity`, `gap` and `errors` for each of `snapshots`."""
        found: Mapping[str, Any] = self.storage.read_json("gradients.json")
        return found


@dataclass
class Evaluation(_Result):
    """A model's scored answers to the questions of one task."""

    @property
    def model(self) -> str:
        """Name of the model: `s2l-0.11`, `full`, `base`, or `model-…`."""
        return EvaluationArtifact.of(self).model

    @property
    def task(self) -> str:
        """Name of the task."""
        return EvaluationArtifact.of(self).task

    @property
    def figures(self) -> Mapping[str, Mapping[str, Any]]:
        """`value`, `low`, `high` and `num_questions` of each metric (`correct`, `bleu`, `rougeL`, …)."""
        return EvaluationArtifact.of(self).figures

    @property
    def report(self) -> Mapping[str, Any]:
        """Content of report.json: figures, groups, shares, splits, baselines, notes."""
        found: Mapping[str, Any] = self.storage.read_json("report.json")
        return found

    def answers(self) -> Any:
        """Load a pyarrow table with one row per question: question, gold, text, extracted, correct, reason, …"""
        return self.storage.read_table("answers.parquet")
