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
    """What scoring with the target costs, where it is the reference."""
    at_once: int = 1
    """Targets that train side by side."""
    beside_proxy: bool = False
    """The target on everything trains while the proxy does."""
    notes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    """Why the run would be refused, one message for each reason that was found; empty: it would start."""
    complete: list[str] = field(default_factory=list)
    """Stages that are in the run's folder already."""

    @property
    def seconds(self) -> float | None:
        """Of the whole run."""
        selecting = self.estimate.seconds
        if selecting is None:
            return None
        if self.reference is not None:  # of a target on everything that is wanted anyway, the reference is that one
            others = [cost.seconds for cost in self.targets if cost.name != FULL]
            return selecting + self.reference.seconds + sum(others)
        lanes = [selecting] * self.at_once
        for cost in self.targets:
            lanes.sort()
            beside = cost.name == FULL and self.beside_proxy
            lanes[0] = max(lanes[0], cost.seconds) if beside else lanes[0] + cost.seconds
        return max(lanes)

    def lines(self) -> list[str]:
        """For people: what matters first."""
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
                "two forward passes and a backward one" if config.gradients.kind == "lora" else "two forward passes"
            )
            examples_asked = f"{config.gradients.num_examples:,} or more examples"
            lines.append(f"              → gradient-check, of {examples_asked}: {passes} of them at each snapshot")
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
        """What the configuration sets differently from the defaults, as YAML that makes the same configuration."""
        return yaml.safe_dump(self.config.stored(exclude_defaults=True), sort_keys=False, allow_unicode=True)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        apart = ("notes", "rendered_format")
        figures = {name: value for name, value in self.estimate.__dict__.items() if name not in apart}
        return {
            "name": self.config.name,
            "refused": self.refusals,
            "seconds": self.seconds,
            "selection": figures,
            "subsets": list(self.config.subset_budgets()),
            "targets": [cost.__dict__ for cost in self.targets],
            "reference": None if self.reference is None else self.reference.__dict__,
            "notes": [*self.estimate.notes, *self.notes],
            "complete_stages": self.complete,
            "differences": self.config.stored(exclude_defaults=True),
            "configuration": self.config.stored(),
        }


def dry_run(config: S2LConfig) -> DryRun:
    """Estimate, and ask everything that a run asks before it starts.

    Raises:
        UserError: the corpus or the proxy cannot be estimated at all, and `estimates` does not say its size.
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
    there = complete_stages(config)
    result.complete = list(there.stages) if there is not None else []
    return result


def _checks(config: S2LConfig, made: Estimate) -> Iterator[Callable[[], object]]:
    yield lambda: preflight(config)
    yield lambda: check_corpus_files(config)
    num_examples = made.num_examples
    if made.is_counted and num_examples is not None:
        yield lambda: check_budgets_fit("selection.budgets", config.selection.budgets, num_examples)
    if is_embedded(config.resources) and not config.resources.may_grow:
        yield lambda: _places(config)


def _places(config: S2LConfig) -> dict[str, Placement]:
    """Who gets what of this machine, where the run would embed a Ray.

    Raises:
        PlacementError: the workers do not fit, and never would.
    """
    import torch

    node: dict[str, float] = {"CPU": local_cores() + 2}  # as execution.session counts them
    if gpus := torch.cuda.device_count():
        node["GPU"] = gpus
    # Accelerator types and resources of one's own are Ray's to find.
    asked = {role: getattr(config.resources, role) for role in roles_of(config)}
    return {
        role: place(config.resources, [node], local_cores(), role)
        for role, one in asked.items()
        if one.accelerator_type is None and not one.custom_resources
    }


class _collected:
    """Notes an error of ours instead of raising it: a hub that does not answer as a note, all else as a refusal."""

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
