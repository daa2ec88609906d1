"""Describes what a run would do, what it would cost, and whether it would be refused. Starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from s2l_ray.artifacts.index import FULL
from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import S2LError
from s2l_ray.execution.placement import Placement, local_cores, place
from s2l_ray.execution.session import is_embedded
from s2l_ray.lm.checks import ModelUnreachable
from s2l_ray.observability.progress import format_count, format_duration
from s2l_ray.selection.quotas import check_budgets_fit
from s2l_ray.stages.corpus.stage import check_corpus_files
from s2l_ray.stages.layout import has_room_beside_proxy, roles_of, targets_by_cores
from s2l_ray.stages.reference import passes_of
from s2l_ray.workflow.estimate import Estimate, complete_stages, estimate
from s2l_ray.workflow.preflight import preflight
from s2l_ray.workflow.target_estimate import (
    TargetCost,
    reference_cost,
    reference_lines,
    target_costs,
    target_lines,
)


@dataclass
class DryRun:
    """The outcome of a dry run."""

    config: S2LConfig
    estimate: Estimate
    targets: list[TargetCost] = field(default_factory=list)
    target_lines: list[str] = field(default_factory=list)
    reference: TargetCost | None = None
    """Cost of scoring with the target, if it is the reference."""
    at_once: int = 1
    """Number of targets trained in parallel."""
    beside_proxy: bool = False
    """Whether the target on the full data is trained at the same time as the proxy."""
    notes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    """Why the run would be refused, one message per reason; empty if it would start."""
    complete: list[str] = field(default_factory=list)
    """Stages that already exist in the run's folder."""

    @property
    def seconds(self) -> float | None:
        """Estimated duration of the whole run (seconds); None if unknown."""
        selecting = self.estimate.seconds
        if selecting is None:
            return None
        if self.reference is not None:  # a target on everything, if requested, is the reference itself
            others = [cost.seconds for cost in self.targets if cost.name != FULL]
            return selecting + self.reference.seconds + sum(others)
        lanes = [selecting] * self.at_once
        for cost in self.targets:
            lanes.sort()
            beside = cost.name == FULL and self.beside_proxy
            lanes[0] = max(lanes[0], cost.seconds) if beside else lanes[0] + cost.seconds
        return max(lanes)

    def lines(self) -> list[str]:
        """The dry run as lines of text, what matters most first."""
        config, made = self.config, [*self.config.subset_budgets()]
        targets = config.target_subsets()
        examples, seconds = self.estimate.num_examples, self.seconds
        head = [
            f"{config.name}: {'an unknown number of' if examples is None else format_count(examples)} examples; "
            f"selects {', '.join(made)}" + (f"; fine-tunes on {', '.join(targets)}" if targets else ""),
            f"total         {'unknown' if seconds is None else 'about ' + format_duration(seconds)}",
        ]
        stages = "stages        corpus → tokens → proxy → trajectories → clusters → "
        reference = reference_lines(config, self.reference, self.targets)
        lines = [*head, *self.estimate.lines(config), *reference, *self.target_lines]
        lines.append(stages + ", ".join(f"subset/{name}" for name in made))
        if config.gradients is not None:
            passes = (
                "two forward passes and a backward pass" if config.gradients.kind == "lora" else "two forward passes"
            )
            examples_asked = f"at least {config.gradients.num_examples:,} examples"
            lines.append(f"              → gradient-check, on {examples_asked}: {passes} at each snapshot")
        if targets:
            lines.append("              → " + ", ".join(f"target/{name}" for name in targets))
        if targets and config.evaluation is not None:
            lines.append(f"              → evaluation of each by {', '.join(config.evaluation.tasks)}")
        lines += [f"note          {note}" for note in [*self.estimate.notes, *self.notes]]
        if self.complete:
            there = ", ".join(self.complete)
            lines.append(f"complete      {there} (skipped if their settings and inputs have not changed)")
        return lines

    def differences(self) -> str:
        """The settings that differ from the defaults, as YAML that loads as the same configuration."""
        return yaml.safe_dump(self.config.stored(exclude_defaults=True), sort_keys=False, allow_unicode=True)

    def plain(self) -> dict[str, Any]:
        """The dry run as JSON data."""
        return {
            "name": self.config.name,
            "refused": self.refusals,
            "seconds": self.seconds,
            "selection": self.estimate.plain(),
            "subsets": list(self.config.subset_budgets()),
            "targets": [cost.__dict__ for cost in self.targets],
            "reference": None if self.reference is None else self.reference.__dict__,
            "notes": [*self.estimate.notes, *self.notes],
            "complete_stages": self.complete,
            "differences": self.config.stored(exclude_defaults=True),
            "configuration": self.config.stored(),
        }


def dry_run(config: S2LConfig) -> DryRun:
    """Estimate a run, and perform all checks that it performs before it starts.

    Raises:
        UserError: the size of the corpus or the proxy cannot be estimated, and `estimates` does not give it.
    """
    result = DryRun(config, estimate(config))
    with _collected(result):
        if (corpus := result.estimate.corpus) is not None:
            result.targets = target_costs(config, corpus)
            result.reference = reference_cost(config, corpus, len(passes_of(config, config.selection.selectors)))
        result.target_lines = target_lines(config, result.targets)
        if result.targets and is_embedded(config.resources):
            placements = _places(config)
            if {"proxy", "target"} <= placements.keys():
                result.at_once = targets_by_cores(placements, len(result.targets))
                result.beside_proxy = has_room_beside_proxy(placements, result.at_once)
    for check in _checks(config, result.estimate):
        with _collected(result):
            check()
    with _collected(result):
        result.notes += check_corpus_files(config)
    there = complete_stages(config)
    result.complete = list(there.stages) if there is not None else []
    return result


def _checks(config: S2LConfig, made: Estimate) -> Iterator[Callable[[], object]]:
    yield lambda: preflight(config)
    num_examples = made.num_examples
    if made.is_counted and num_examples is not None:
        yield lambda: check_budgets_fit("selection.budgets", config.selection.budgets, num_examples)
    if is_embedded(config.resources) and not config.resources.may_grow:
        yield lambda: _places(config)


def _places(config: S2LConfig) -> dict[str, Placement]:
    """Place the workers on this machine, for a run that would start its own Ray.

    Raises:
        PlacementError: the workers do not fit.
    """
    import torch

    node: dict[str, float] = {"CPU": local_cores() + 2}  # as execution.session counts them
    if gpus := torch.cuda.device_count():
        node["GPU"] = gpus
    # Accelerator types and custom resources are only known to a running Ray.
    asked = {role: getattr(config.resources, role) for role in roles_of(config)}
    return {
        role: place(config.resources, [node], local_cores(), role)
        for role, one in asked.items()
        if one.accelerator_type is None and not one.custom_resources
    }


class _collected:
    """Records this package's errors instead of raising them: an unreachable hub as a note, anything else as a
    refusal."""

    def __init__(self, result: DryRun) -> None:
        self._result = result

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, ModelUnreachable):
            self._result.notes.append(f"not checked: {error}")
            return True
        if isinstance(error, S2LError):
            if str(error) not in self._result.refusals:
                self._result.refusals.append(str(error))
            return True
        return False
