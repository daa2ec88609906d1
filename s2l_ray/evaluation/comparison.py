"""Compares two models on the same questions: which differences are significant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2l_ray.evaluation import statistics


@dataclass(frozen=True)
class Verdicts:
    """One model's verdicts on a set."""

    ids: Sequence[bytes]
    right: np.ndarray
    """(N,) bool, in the order of the ids."""

    def on(self, ids: Sequence[bytes]) -> np.ndarray:
        """The verdicts on these questions, (N,) bool."""
        place = {one: i for i, one in enumerate(self.ids)}
        return self.right[[place[one] for one in ids]]


def compare_models(
    first: Mapping[str, Verdicts], second: Mapping[str, Verdicts], seed: int, resamples: int, level: float
) -> dict[str, Any]:
    """Differences, first minus second, on every set and question that both have answered, with Holm's correction over
    the sets, and differences of the averages over sets and over questions.

    Raises:
        ValueError: they have no question in common.
    """
    left: dict[str, np.ndarray] = {}
    right: dict[str, np.ndarray] = {}
    alone: dict[str, int] = {}
    for task in [task for task in first if task in second]:
        common = sorted(set(first[task].ids) & set(second[task].ids))
        if common:
            left[task], right[task] = first[task].on(common), second[task].on(common)
            alone[task] = len(set(first[task].ids) | set(second[task].ids)) - len(common)
    if not left:
        raise ValueError("they have no question in common")
    tasks = {
        task: statistics.compare(
            left[task], right[task], statistics.generator(seed, task, "difference"), resamples, level
        )
        for task in left
    }
    adjusted = statistics.holm({task: one.p_value for task, one in tasks.items()})
    averages = statistics.compare_averages(
        left, right, statistics.generator(seed, "averages", "difference"), resamples, level
    )
    return {
        "tasks": {
            task: {
                **one._asdict(), "p_holm": adjusted[task], "num_questions": len(left[task]),
                "asked_of_one_alone": alone[task],
            }
            for task, one in tasks.items()
        },
        "averages": {name: one._asdict() for name, one in averages.items()},
    }  # fmt: skip


def comparison_lines(first: str, second: str, made: Mapping[str, Any]) -> list[str]:
    """The comparison as lines of text."""
    lines = [f"{first} minus {second}:"]
    for task, one in made["tasks"].items():
        lines.append(
            f"  {task:<14} {one['difference']:+.1%} ({one['low']:+.1%} to {one['high']:+.1%}), only {first} right: "
            f"{one['only_first']:,}, only {second}: {one['only_second']:,}, McNemar p={one['p_value']:.3g}, with Holm "
            f"{one['p_holm']:.3g}; {one['num_questions']:,} questions can detect differences of "
            f"{max(one['detectable'], 1 / one['num_questions']):.1%} or more"
        )
    if len(made["tasks"]) > 1:
        for name, title in (("macro", "mean of the sets"), ("micro", "all questions")):
            one = made["averages"][name]
            lines.append(f"  {title:<14} {one['value']:+.1%} ({one['low']:+.1%} to {one['high']:+.1%})")
    for task, metrics in made.get("summaries", {}).items():
        told = [
            f"{name} {one['value']:+.2f} ({one['low']:+.2f} to {one['high']:+.2f})" for name, one in metrics.items()
        ]
        lines.append(f"  {task:<14} {', '.join(told)}")
    return [*lines, *_seeds_lines(made.get("over_seeds") or {"tasks": {}})]


def _seeds_lines(made: Mapping[str, Any]) -> list[str]:
    """Lines for models trained with several seeds."""
    lines: list[str] = []
    for task, metrics in made["tasks"].items():
        lines += [_seeds_line(task, metric, one) for metric, one in metrics.items()]
    if average := made.get("average"):
        lines.append(_seeds_line("mean of the sets", "correct", average))
    if not lines:
        return []
    return ["  over training seeds (drawn first, then the questions):", *lines]


def _seeds_line(what: str, metric: str, one: Mapping[str, Any]) -> str:
    is_share = metric == "correct"
    value, deviation, low, high = (
        f"{one[name]:{sign}.1%}" if is_share else f"{one[name]:{sign}.2f}"
        for name, sign in (("difference", "+"), ("deviation", ""), ("low", "+"), ("high", "+"))
    )
    name = "" if is_share else f"{metric} "
    holm = f", with Holm {one['p_holm']:.3g}" if "p_holm" in one else ""
    return (
        f"    {what:<12} {name}{value} ± {deviation} ({low} to {high}), p={one['p_value']:.3g}{holm}; "
        f"{one['num_seeds']} seeds, {one['num_questions']:,} questions"
    )
