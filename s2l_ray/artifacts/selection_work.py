"""Work of selections in tokens and floating-point operations, from the manifests: training the models that selectors
read, and their passes over the corpus.

Passes over held-out examples and the user's own examples are small in comparison and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2l_ray.artifacts.index import FULL
from s2l_ray.artifacts.models import ProxyArtifact, SignalsArtifact, TargetArtifact, TokensArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.selection import SelectionConfig
from s2l_ray.lm.flops import ModelShape
from s2l_ray.selection.signals import CLUSTERS, EMBEDDINGS, LOSS_UNCONDITIONAL, LOSSES, PASSES

SCORING_TARGET = f"target/{FULL}"
"""Stage of a target that is the reference."""


@dataclass(frozen=True)
class Work:
    """Amount of work."""

    tokens: int = 0
    flops: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.flops + other.flops)


@dataclass(frozen=True)
class SelectionWork:
    """Work of a selection."""

    training: Work = Work()
    """Training of the models whose scores are read."""
    scoring: Work = Work()
    """Passes over the corpus."""

    @property
    def flops(self) -> float:
        return self.training.flops + self.scoring.flops

    @property
    def tokens(self) -> int:
        return self.training.tokens + self.scoring.tokens


@dataclass(frozen=True)
class Reads:
    """Inputs that one subset's selector has read."""

    proxy: bool
    """Whether it read any of the proxy's scores."""
    trajectories: bool
    """Whether it read losses or scores that were computed at the snapshots."""
    passes: list[Stage]
    """Additional passes that it read, of the proxy or the target."""

    @property
    def target(self) -> bool:
        return any(is_of_target(one) for one in self.passes)


def is_of_target(signals: Stage) -> bool:
    """Whether a column was computed with the target, not with the proxy."""
    return "target" in signals.manifest.inputs


def reads_of(run: Run, selection: SelectionConfig, selector: str, subset: Stage) -> Reads:
    """Return what a subset's selector has read.

    Raises:
        UserError: the selector, or one of its options, is unknown.
    """
    names = set(subset.manifest.inputs)
    passes = [run.stages[name] for name in sorted(names) if name.startswith("signals/") and name in run.stages]
    needs = selection.needs_of(selector)
    # Columns from a separate pass, or from the target, need none of the proxy's scores.
    scored = {need for need in needs if "@" in need and need.partition("@")[0] not in PASSES}
    if any(is_of_target(one) for one in passes):
        scored = {need for need in scored if need.endswith("@all")}
    trajectories = bool(scored) or bool({CLUSTERS, LOSSES} & needs)
    return Reads(trajectories or any(not is_of_target(one) for one in passes), trajectories, passes)


def work_of(run: Run, reads: Reads) -> SelectionWork:
    """Return the work of a subset as if it were the only one."""
    training, scoring = Work(), Work()
    if reads.proxy:
        training += proxy_training(run)
    if reads.trajectories:
        scoring += proxy_scoring(run)
    if any(_reference_of(run, one) is not None for one in reads.passes if is_of_target(one)):
        training += _target_training(run)
    return SelectionWork(training, sum((pass_work(run, one) for one in reads.passes), scoring))


def whole_work(run: Run) -> SelectionWork:
    """Return the work of the whole run: the proxy, its snapshots, a target that is the reference, and all passes."""
    passes = [stage for name, stage in run.stages.items() if name.startswith("signals/")]
    of_corpus = [one for one in passes if not {"query", "split"} & one.manifest.inputs.keys()]
    return work_of(run, Reads(True, True, of_corpus))


def scores_with_target(run: Run) -> bool:
    """Whether a target is the reference of a selector."""
    signals = (stage for name, stage in run.stages.items() if name.startswith("signals/"))
    return any(is_of_target(one) and _reference_of(run, one) is not None for one in signals)


def proxy_training(run: Run) -> Work:
    proxy = ProxyArtifact.of(run.stage("proxy"))
    return Work(proxy.summary["train_tokens"], proxy.flops["training"])


def proxy_scoring(run: Run) -> Work:
    proxy, tokens = ProxyArtifact.of(run.stage("proxy")), run.stages.get("tokens")
    once = 0 if tokens is None else TokensArtifact.of(tokens).num_tokens
    return Work(once * num_scored(proxy.snapshots), proxy.flops["scoring"])


def num_scored(snapshots: list[dict[str, Any]]) -> int:
    """Count the points of a proxy that took a pass over the corpus; training computed the others anyway."""
    return sum(snapshot.get("epoch") is None for snapshot in snapshots)


def _reference_of(run: Run, signals: Stage) -> Stage | None:
    """Return the model that computed a column; None: the run has another one now."""
    name = SCORING_TARGET if is_of_target(signals) else "proxy"
    model = run.stages.get(name)
    wanted = signals.manifest.inputs.get(name.partition("/")[0])
    return None if model is None or model.content != wanted else model


def _target_training(run: Run) -> Work:
    summary = TargetArtifact.of(run.stages[SCORING_TARGET]).summary
    return Work(summary["tally"]["tokens"], summary["flops"])


def pass_work(run: Run, signals: Stage) -> Work:
    """Return the work of one column of the whole corpus; none if the stages from which it was computed are missing."""
    tokens = run.stages.get(f"target-tokens/{FULL}" if is_of_target(signals) else "tokens")
    model = _reference_of(run, signals)
    shape = None if model is None else _shape(model.manifest.extra["summary"])
    if tokens is None or shape is None or signals.manifest.inputs.get("tokens") != tokens.content:
        return Work()
    counts, column = TokensArtifact.of(tokens), SignalsArtifact.of(signals).column
    responses = counts.num_response_tokens
    if column == LOSS_UNCONDITIONAL:  # only responses; squares assume the same share in all examples
        squares = int(counts.sum_squared_lengths * (responses / max(1, counts.num_tokens)) ** 2)
        return Work(responses, float(shape.forward_flops(responses, responses, squares)))
    head = 0 if column in EMBEDDINGS else responses
    return Work(counts.num_tokens, float(shape.forward_flops(counts.num_tokens, head, counts.sum_squared_lengths)))


def _shape(summary: Mapping[str, Any]) -> ModelShape | None:
    return ModelShape(**summary["shape"]) if "shape" in summary else None
