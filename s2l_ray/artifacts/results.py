"""Stages that people ask for, with what they hold."""

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
        """The same stage, with its own properties."""
        return cls(stage.name, stage.folder, stage.storage, stage.manifest, stage.reused)

    @property
    def label(self) -> str:
        """What the stage is called among its kind: `s2l-0.11`, `full`."""
        return self.name.partition("/")[2] or self.name


@dataclass
class Subset(_Result):
    """A chosen subset."""

    @property
    def files(self) -> list[str]:
        """URIs of its files; the first, `subset.jsonl`, is the one to train on."""
        return [f"{self.storage.uri}/{name}" for name in SubsetArtifact.of(self).files]

    @property
    def num_examples(self) -> int:
        return self.manifest.row_counts["examples"]

    @property
    def per_source(self) -> Mapping[str, int]:
        """Chosen examples of each source."""
        return SubsetArtifact.of(self).per_source


@dataclass
class Target(_Result):
    """A fine-tuned target."""

    @property
    def model_uri(self) -> str:
        """Folder that `from_pretrained` loads."""
        return f"{self.storage.uri}/model"

    heldout_evaluation: Stage | None = None
    """Its scores on the held-out sets; None if nothing is held out."""

    @classmethod
    def evaluated(cls, stage: Stage, evaluation: Stage | None) -> Self:
        """A target's stage with that of its evaluation."""
        target = cls.of(stage)
        target.heldout_evaluation = evaluation
        return target

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """Held-out set → `before` and `after` training, each metric by its name: `micro` (mean loss over examples),
        `macro` (over sources), `per_token`, all in nats, `exact_match`, and those registered from outside."""
        return {} if self.heldout_evaluation is None else results_before_and_after(self.heldout_evaluation)


@dataclass
class GradientCheck(_Result):
    """Whether gradients are alike within clusters, and which subsets have the corpus's mean gradient."""

    @property
    def verdict(self) -> list[str]:
        """Sentences, the most important first."""
        return GradientCheckArtifact.of(self).verdict

    @property
    def report(self) -> Mapping[str, Any]:
        """All of gradients.json: `verdict`, and for each of `snapshots` `similarity`, `gap` and `errors`."""
        found: Mapping[str, Any] = self.storage.read_json("gradients.json")
        return found


@dataclass
class Evaluation(_Result):
    """A model's answers to the questions of one task, judged."""

    @property
    def model(self) -> str:
        """`s2l-0.11`, `full`, `base`, or `model-…`."""
        return EvaluationArtifact.of(self).model

    @property
    def task(self) -> str:
        return EvaluationArtifact.of(self).task

    @property
    def figures(self) -> Mapping[str, Mapping[str, Any]]:
        """Name (`correct`, `bleu`, `rougeL`, …) → `value`, `low`, `high` and `num_questions`."""
        return EvaluationArtifact.of(self).figures

    @property
    def report(self) -> Mapping[str, Any]:
        """All of report.json: figures, groups, shares, splits, yardsticks, notes."""
        found: Mapping[str, Any] = self.storage.read_json("report.json")
        return found

    def answers(self) -> Any:
        """A pyarrow table with a row for each question: question, gold, text, extracted, correct, reason, …"""
        return self.storage.read_table("answers.parquet")
