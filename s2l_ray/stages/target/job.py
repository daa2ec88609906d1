"""What a target worker is told."""

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
    """Everything that a worker needs; the same for all."""

    name: str
    """What it is trained on: `s2l-0.11`, `full`."""
    target: TargetConfig
    plan: TrainPlan | CurriculumPlan
    seed: int
    tokenizer: Any
    tokens: Storage
    """Folder of the token parts."""
    watched: HeldOutSets | None
    """Evaluated while it trains; None: nothing is."""
    deciding_set: str | None
    """The one by which `keep_best` and `patience` go; None: neither is set."""
    objective: tuple[str, Metric] | None
    """Held-out set and metric by which a sweep's scheduler goes."""
    scoring: dict[str, ScoringJob]
    """Models to be scored by the same workers: BEFORE before anything is trained, AFTER at the end."""
    out: Storage
    """Folder of the stage."""
    num_parameters: int
    zero_stage: int
    zero_config: dict[str, Any] | None
    """DeepSpeed's configuration; None without it."""
    precision: str
    """fp32 or bf16."""
    card: str
    """The model card, without what training will find out."""
    subset: Storage | None = None
    """Folder of the subset, where its examples have weights or stages; None: they have none."""
    weighted: bool = False
    staged: bool = False
    threads: int | None = None
    kept: tuple[int, ...] = ()
    """Optimiser steps after which the weights are kept, for selectors that score by them."""
    metrics: tuple[Metric, ...] = field(default_factory=lambda: tuple(built_in_metrics()))
    """Of held-out sets: workers know only those that packages offer."""

    @property
    def checkpoint_steps(self) -> int:
        return self.target.checkpoint_every_steps or max(1, -(-self.plan.total_steps // 5))

    @property
    def evaluate_every(self) -> int:
        """Steps between evaluations."""
        return self.target.evaluate_every_steps or self.plan.total_steps
