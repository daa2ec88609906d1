"""The job description that every target worker receives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from s2l_ray.config.target import TargetConfig
from s2l_ray.data.curriculum import CurriculumPlan
from s2l_ray.data.training_order import TrainPlan
from s2l_ray.evaluation.metrics import Metric, built_in_metrics
from s2l_ray.lm.heldout import HeldOutSets, ScoringJob
from s2l_ray.storage.folder import Storage


@dataclass(frozen=True)
class TargetJob:
    """Everything that a worker needs; the same for all workers."""

    name: str
    """Name of what the target is trained on: `s2l-0.11`, `full`."""
    target: TargetConfig
    plan: TrainPlan | CurriculumPlan
    seed: int
    tokenizer: Any
    tokens: Storage
    """Folder of the token parts."""
    watched: HeldOutSets | None
    """Held-out sets to evaluate during training; None: none."""
    deciding_set: str | None
    """The held-out set that `keep_best` and `patience` monitor; None: neither is set."""
    objective: tuple[str, Metric] | None
    """Held-out set and metric that a sweep's scheduler monitors; None: there is no scheduler."""
    scoring: dict[str, ScoringJob]
    """Models that these workers also score: BEFORE at the start of the training, AFTER at its end."""
    out: Storage
    """Folder of the stage."""
    num_parameters: int
    zero_stage: int
    zero_config: dict[str, Any] | None
    """DeepSpeed's configuration; None: DeepSpeed is not used."""
    precision: str
    """fp32 or bf16."""
    card: str
    """The model card, without results of the training."""
    subset: Storage | None = None
    """Folder of the subset if its examples have weights or stages, otherwise None."""
    weighted: bool = False
    staged: bool = False
    threads: int | None = None
    kept: tuple[int, ...] = ()
    """Optimiser steps after which the weights are kept, for selectors that score with them."""
    metrics: tuple[Metric, ...] = field(default_factory=lambda: tuple(built_in_metrics()))
    """Metrics to compute on held-out sets, since workers only know those provided by packages."""

    @property
    def checkpoint_steps(self) -> int:
        return self.target.checkpoint_every_steps or max(1, -(-self.plan.total_steps // 5))

    @property
    def evaluate_every(self) -> int:
        """Steps between evaluations."""
        return self.target.evaluate_every_steps or self.plan.total_steps
