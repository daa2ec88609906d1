"""The manual's page of evidence, made of the rows of `evidence.py` alone."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from comparison.arms import COST_IN_STEPS, FULL
from comparison.statistics import mean_and_deviation, paired_difference, signed

Row = dict[str, Any]
BASELINE = "random"
_FIRST = (FULL, BASELINE, "random_per_source", "s2l", "s2l, α ½", "s2l, weights", "s2l_robust")
_TITLES = {"quickstart": "The quickstart's corpus", "maths": "A mixture of six maths sources"}
_RECIPES = {"quickstart": "quickstart", "maths": "maths_curve"}
_BALANCED = {"quickstart": "balanced over the skills", "maths": "mean over the sources"}
_DISTRIBUTED = {"quickstart": "as distributed", "maths": "mean over examples"}

_HEAD = """# Evidence

<!-- Made by `python benchmarks/evidence.py --write docs/evidence.md` of the rows in benchmarks/evidence_rows.jsonl.
Change the program and run it again; do not edit this page. -->

What targets learn from subsets that every selector chooses, with and without wrong answers. The selectors' definitions
are ours where the papers' are not public. Models, data and trainings are as small as two CPU cores ask for: read the
tables as what selectors are sensitive to, and not as what they gain on your data. What they show in words stands under
[The science](science.md). For models with pretrained weights, `benchmarks/evidence_pretrained.py` makes the same
comparison on one GPU.

- For each **seed** and share of wrong answers one proxy is trained on the whole corpus; every selector chooses from its
  scores. Seeds change the corpus or its wrong answers, proxy, choice, order of the data and the target's initial
  weights; arms of one seed share all of them. All targets of a table take the same number of steps; `everything` is the
  whole corpus.
- **n** is the number of seeds that a row rests on. Figures are means ± standard deviations over the seeds. The program
  goes on where it stopped, and the page is made again as rows are added.
- **Differences from `random`** are paired by seed, with 95 % intervals (Student's t); those that leave zero out are
  bold. Many are tested here, so that one in twenty is bold by chance. Where n is 1 there is no interval.
- **Wrong rows** is the share of wrong answers in the subset. Everything that is held out is right.
- **Cost** is the floating-point operations of the proxy's training and of its passes over the corpus, as far as the
  selector needs them, over those of the target's training. The arm `random, S2L's cost in further steps` spends the
  cost of S2L's selection on a longer training instead.
"""


def page(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [_HEAD]
    for corpus in [name for name in _TITLES if any(row["corpus"] == name for row in rows)]:
        of = [row for row in rows if row["corpus"] == corpus]
        lines += [f"## {_TITLES[corpus]}\n", _setting(corpus, of)]
        budgets = sorted({row["budget"] for row in of if row["budget"] < 1}, key=lambda b: (b != 0.2, b))
        for budget in budgets:
            for wrong in sorted({row["wrong_answers"] for row in of}):
                these = [row for row in of if row["wrong_answers"] == wrong and row["budget"] in (budget, 1)]
                if any(row["budget"] == budget for row in these):
                    answers = "no wrong answers" if wrong == 0 else f"{wrong:.0%} wrong answers"
                    lines += [f"### {budget:.0%} of the corpus, {answers}\n", table(corpus, these), ""]
    return "\n".join(lines).rstrip() + "\n"


def _setting(corpus: str, rows: Sequence[Row]) -> str:
    """What the rows say of how they were made."""
    settings = {str(row["settings"]): row["settings"] for row in rows}
    told = []
    for one in settings.values():
        of = [row for row in rows if row["settings"] == one]
        sizes = sorted({row["examples"] for row in of if row["budget"] == 1})
        count = f"{one['examples']:,} rows"
        if sizes:
            left = " to ".join(dict.fromkeys(f"{size:,}" for size in (sizes[0], sizes[-1])))
            count += f", of which {left} examples are left without copies and those without a usable response"
        steps = " and ".join(f"{n:,}" for n in sorted({row["steps"] for row in of if row["arm"] != COST_IN_STEPS}))
        seconds = sorted(row["training_seconds"] for row in of)
        text = (
            f"{count}; {one['snapshots']} snapshots; targets of {steps} steps, which took "
            f"{seconds[len(seconds) // 2]:.0f} CPU seconds in the median. The recipe `{_RECIPES[corpus]}` with"
        )
        fence = textwrap.fill(" ".join(one["set"]), 110, break_on_hyphens=False, break_long_words=False)
        told.append(f"{textwrap.fill(text, 118)}\n\n```text\n{fence}\n```\n")
    return "\n".join(told)


def table(corpus: str, rows: Sequence[Row]) -> str:
    """One budget and share of wrong answers."""
    exact = any(row["balanced"] >= 0.02 or row["distributed"] >= 0.02 for row in rows)
    columns: list[tuple[str, Callable[[list[Row]], str]]] = [("n", lambda these: str(len(these)))]
    kinds = [("_loss", "loss", 3)] + ([("", "exact", 3)] if exact else [])
    for kind, word, digits in kinds:
        for test, title in (("balanced", _BALANCED[corpus]), ("distributed", _DISTRIBUTED[corpus])):
            columns += [
                (f"{word}, {title}", _mean_of(test + kind, digits)),
                (f"against {BASELINE}", _difference_of(test + kind, rows, digits)),
            ]
    if any(row["wrong"] for row in rows):
        columns.append(("wrong rows", lambda these: f"{sum(r['wrong'] for r in these) / len(these):.0%}"))
    columns.append(("cost", _cost))
    lines = ["| trained on | " + " | ".join(title for title, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for arm in _in_order({row["arm"] for row in rows}, rows):
        these = [row for row in rows if row["arm"] == arm]
        lines.append(f"| {arm} | " + " | ".join(of(these) for _, of in columns) + " |")
    return "\n".join(lines)


def _in_order(arms: set[str], rows: Sequence[Row]) -> Iterator[str]:
    """The main ones first, the others by name."""
    yield from (arm for arm in _FIRST if arm in arms)
    yield from sorted(arms - set(_FIRST))


def _mean_of(column: str, digits: int) -> Callable[[list[Row]], str]:
    return lambda these: mean_and_deviation([row[column] for row in these], digits)


def _difference_of(column: str, rows: Sequence[Row], digits: int) -> Callable[[list[Row]], str]:
    baseline = {row["seed"]: row[column] for row in rows if row["arm"] == BASELINE}

    def cell(these: list[Row]) -> str:
        pairs = [(row[column], baseline[row["seed"]]) for row in these if row["seed"] in baseline]
        if not pairs or these[0]["arm"] == BASELINE:
            return ""
        return signed(paired_difference(pairs), digits)

    return cell


def _cost(these: list[Row]) -> str:
    shares = [row["selection_flops"] / row["training_flops"] for row in these]
    if these[0]["arm"] == COST_IN_STEPS:
        return "in its steps"
    return f"{sum(shares) / len(shares):.2f}" if any(shares) else "0"
