"""The tables of `evidence_pretrained.py`, made of its arms alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from comparison.statistics import mean_and_deviation
from s2l_ray.evaluation.seeds import compare_over_seeds
from s2l_ray.evaluation.statistics import compare_averages, generator, paired_bootstrap

Row = dict[str, Any]
BASELINE = "random"
RESAMPLES = 10_000

_HEAD = """# Selectors with a pretrained model

<!-- Made by benchmarks/evidence_pretrained.py of the files in `arms`; do not edit. -->

Held-out loss in nats a response token; accuracy is the mean over the sets. n is the number of seeds: figures are means
± standard deviations over them. Differences from `random` are paired by seed and question, with 95 % intervals: the
bootstrap draws seeds and questions, or, where n is 1, questions alone, and says nothing of other seeds then. With two
or three seeds such intervals are too narrow. Those that leave zero out are bold.
"""


def page(rows: Sequence[Row]) -> str:
    """Markdown."""
    parts = [_HEAD, _setting(rows)]
    plain = [row for row in rows if row["budget"] == 0]
    cells = {(row["budget"], row["swapped"]) for row in rows if 0 < row["budget"] < 1}
    for budget, swapped in sorted(cells, key=lambda cell: (-cell[0], cell[1])):
        these = plain + [row for row in rows if row["budget"] in (budget, 1) and row["swapped"] == swapped]
        answers = f"{swapped:.0%} swapped answers" if swapped else "answers as they are"
        parts.append(f"## {budget:.0%} of the corpus, {answers}\n\n{table(these)}\n")
    return "\n".join(parts)


def _setting(rows: Sequence[Row]) -> str:
    if not rows:
        return "No arm is done.\n"
    told = rows[0]["settings"]
    devices = ", ".join(sorted({row["device"] for row in rows}))
    return "Settings, on " + devices + ": " + ", ".join(f"`{name}={value}`" for name, value in told.items()) + ".\n"


def table(rows: Sequence[Row]) -> str:
    """One budget and share of swapped answers; the baseline first, the others by name."""
    sets = list(rows[0]["right"])
    arms = sorted({row["arm"] for row in rows}, key=lambda arm: (arm != BASELINE, arm))
    baseline = {row["seed"]: row for row in rows if row["arm"] == BASELINE}
    head = ["trained on", "n", "loss", f"against {BASELINE}", "accuracy", f"against {BASELINE}", *sets, "wrong rows",
            "cost"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for arm in arms:
        these = [row for row in rows if row["arm"] == arm]
        pairs = [(row, baseline[row["seed"]]) for row in these if row["seed"] in baseline and arm != BASELINE]
        cells = [
            arm, str(len(these)), mean_and_deviation([float(np.mean(row["losses"])) for row in these], 3),
            _loss_difference(pairs), mean_and_deviation([_accuracy(row) for row in these], 3),
            _accuracy_difference(pairs), *(f"{np.mean([np.mean(row['right'][s]) for row in these]):.3f}" for s in sets),
            _mean(these, lambda row: row.get("wrong"), "{:.0%}"), _mean(these, _cost, "{:.2f}"),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _accuracy(row: Row) -> float:
    return float(np.mean([np.mean(values) for values in row["right"].values()]))


def _cost(row: Row) -> float | None:
    """Of the selection, in trainings of the target."""
    return row["selection_flops"] / row["training_flops"] if "training_flops" in row else None


def _mean(rows: list[Row], value: Callable[[Row], float | None], form: str) -> str:
    values = [found for row in rows if (found := value(row)) is not None]
    return form.format(np.mean(values)) if values else ""


def _loss_difference(pairs: list[tuple[Row, Row]]) -> str:
    if not pairs:
        return ""
    first, second = (np.array([pair[i]["losses"] for pair in pairs]) for i in (0, 1))  # (S, N)
    rng = generator(0, "loss", pairs[0][0]["arm"])
    if len(pairs) > 1:
        found = compare_over_seeds({"held-out": first}, {"held-out": second}, rng, RESAMPLES)
        return _signed(found.difference, found.low, found.high)
    num = first.shape[1]
    one = paired_bootstrap(first[0][:, None], second[0][:, None], lambda sums: sums[:, 0] / num, rng, RESAMPLES)
    return _signed(one.value, one.low, one.high)


def _accuracy_difference(pairs: list[tuple[Row, Row]]) -> str:
    if not pairs:
        return ""
    rng = generator(0, "accuracy", pairs[0][0]["arm"])
    names = list(pairs[0][0]["right"])
    first, second = ({name: np.array([pair[i]["right"][name] for pair in pairs]) for name in names} for i in (0, 1))
    if len(pairs) > 1:
        found = compare_over_seeds(first, second, rng, RESAMPLES)
        return _signed(found.difference, found.low, found.high)
    one = compare_averages(
        {name: v[0] for name, v in first.items()}, {name: v[0] for name, v in second.items()}, rng, RESAMPLES
    )
    return _signed(one["macro"].value, one["macro"].low, one["macro"].high)


def _signed(difference: float, low: float, high: float) -> str:
    text = f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]"
    return f"**{text}**" if low > 0 or high < 0 else text
