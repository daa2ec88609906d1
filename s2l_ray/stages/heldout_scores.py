"""Scores the held-out sets with a target and with its initial model.

The workers that train a target also do the scoring, since starting workers takes longer than scoring. If the target
already exists, or DeepSpeed occupies the memory, separate workers do it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s2l_ray.artifacts.models import HeldOutArtifact
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.schema import S2LConfig
from s2l_ray.lm.identity import pinned
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.tokenizer import open_tokenizer
from s2l_ray.stages.training import check_before_training
from s2l_ray.storage.folder import Storage

if TYPE_CHECKING:
    from s2l_ray.lm.heldout import HeldOutSets, ScoringJob  # import torch

BEFORE, AFTER = "before", "after"
"""The model before the training, and the one exported after it."""


@dataclass(frozen=True)
class Scored:
    """One model's scores on all held-out sets."""

    table: Any
    """Rows of evaluation.heldout.SCORE_SCHEMA."""
    device: str
    num_workers: float
    """Number of workers reserved for the scoring alone."""
    peak_memory_bytes: int | None


def heldout_sets(config: S2LConfig, heldout: Stage) -> HeldOutSets:
    """All held-out sets of the stage."""
    from s2l_ray.lm.heldout import HeldOutSets

    names = tuple(HeldOutArtifact.of(heldout).names)
    return HeldOutSets(heldout.storage, names, config.heldout.tokens_per_batch)


class HeldOutScores:
    """The held-out scores for one target.

    Args:
        name: name of what the target is trained on.
        tokens: the target's tokens, whose tokenizer is used.
        has_before: whether the initial model has already been scored.
    """

    def __init__(
        self, context: RunContext, name: str, tokens: Stage, heldout: Stage, has_before: Callable[[], bool]
    ) -> None:
        self.context, self.name, self.tokens, self.heldout = context, name, tokens, heldout
        self._has_before = has_before
        self._made: dict[str, Scored] = {}
        self._model: Storage | None = None

    def beside_training(self, out: Storage) -> dict[str, ScoringJob]:
        """Scoring jobs for the workers that train the target in `out`; none if they do not each hold a whole model."""
        if self.context.layout.sharding_of(self.context.config).stage:
            return {}
        jobs = {} if self._has_before() else {BEFORE: self._job(None)}
        return jobs | {AFTER: self._job(out.sub("model"))}

    def accept(self, tables: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Take over what the training workers scored; its cost and memory count as part of the training."""
        self._made |= {which: Scored(table, summary["device"], 0, None) for which, table in tables.items()}

    def trained(self, target: Stage) -> None:
        """Note that the target is complete, so that other workers can score it."""
        self._model = target.storage.sub("model")

    def take(self, which: str, out: Storage) -> Scored:
        """The scores, computed now if they do not exist yet.

        Args:
            which: BEFORE or AFTER. For BEFORE, the same workers also compute AFTER, which will be needed next.
            out: folder of the stage that needs the scores.
        """
        if which not in self._made:
            self._made |= self._score([which, AFTER] if which == BEFORE else [which], out)
        return self._made[which]

    def _job(self, model: Storage | None) -> ScoringJob:
        from s2l_ray.lm.heldout import ScoringJob

        config, layout = self.context.config, self.context.layout
        target, placement = config.target, layout.placements["target"]
        assert target is not None
        sharding = layout.sharding_of(config)
        return ScoringJob(
            heldout_sets(config, self.heldout), pinned(target), open_tokenizer(self.tokens), config.seed_of("target"),
            layout.precision_of(target), model, sharding.config if sharding.stage == 3 else None,
            sharding.num_parameters, placement.threads,
        )  # fmt: skip

    def _score(self, which: list[str], out: Storage) -> dict[str, Scored]:
        context, config = self.context, self.context.config
        assert config.target is not None
        check_before_training(config.target, open_tokenizer(self.tokens), self.tokens, self.heldout)
        context.layout.wait_for_capacity("target", context.progress.say)
        jobs = {one: self._job(None if one == BEFORE else self._model) for one in which}
        is_sharded = any(job.zero_config is not None for job in jobs.values())
        return self._score_in_shards(jobs, out) if is_sharded else self._score_set_by_set(jobs)

    def _score_set_by_set(self, jobs: dict[str, ScoringJob]) -> dict[str, Scored]:
        """Score in independent processes, each with a whole model."""
        import pyarrow as pa

        from s2l_ray.execution.actor_pool import ActorPool
        from s2l_ray.lm.heldout import SetScorer

        context, placement = self.context, self.context.layout.placements["target"]
        items = [(one, job, name) for one, job in jobs.items() for name in job.sets.names]
        make = functools.partial(SetScorer, placement.device)
        label, failures = f"heldout_evaluation/{self.name}", context.config.resources.max_failures
        with ActorPool(make, placement, label, failures, context.progress.say) as pool:
            made = pool.map(items)
        memory, num_workers = max(row["peak_memory_bytes"] for row in made), min(placement.num_workers, len(items))
        scored = {}
        for one in jobs:
            rows = [row for (model, _, _), row in zip(items, made, strict=True) if model == one]
            table = pa.concat_tables(row["table"] for row in rows)
            scored[one] = Scored(table, rows[0]["device"], num_workers, memory)
        return scored

    def _score_in_shards(self, jobs: dict[str, ScoringJob], out: Storage) -> dict[str, Scored]:
        from s2l_ray.execution.training import run_on_workers
        from s2l_ray.lm.heldout import score_models

        context, config = self.context, self.context.config
        placement = context.layout.placements["target"]
        made = run_on_workers(
            score_models, jobs, out, placement, what=f"held-out evaluation ({self.name})",
            max_failures=config.resources.max_failures, wait_s=config.resources.capacity_wait_s,
            environment=context.layout.sharding_of(config).environment(placement.device), on_event=self._on_event,
        )  # fmt: skip
        memory, tables = max(made["peak_memory_bytes"]), made["tables"]
        return {one: Scored(tables[one], made["device"], placement.num_workers, memory) for one in jobs}

    def _on_event(self, event: dict[str, Any]) -> None:
        from s2l_ray.execution.restarts import restart_said

        self.context.progress.say(f"[heldout_evaluation/{self.name}] {restart_said(event)}")
