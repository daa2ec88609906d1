"""Makes corpora with a known share of wrong answers; all held-out answers are right."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from comparison.tokens import Rows
from s2l_ray.data.quickstart import generate_corpus

NUM_QUERIES = 100


@dataclass(frozen=True)
class Corpus:
    train: Rows
    """Training rows, with the column `is_wrong`."""
    tests: dict[str, Rows]
    queries: Rows
    """Examples of the task for selectors that need them; in neither the training rows nor the tests."""


def quickstart(num: int, wrong: float, seed: int) -> Corpus:
    """Generate `num` training rows and drop duplicates; a wrong answer is another one for the same skill.

    The tests are `balanced` (the same number of questions per skill) and `distributed` (like the corpus).
    """
    held = max(2 * NUM_QUERIES, num // 20 + NUM_QUERIES)
    noisy, test = generate_corpus(num + held, seed=seed, wrong_answer_share=wrong)
    clean, _ = generate_corpus(num + held, seed=seed)
    train = list({(row["instruction"], row["output"]): row for row in noisy[:num]}.values())
    seen = {row["instruction"] for row in train}
    unseen = list({row["instruction"]: row for row in clean[num:] if row["instruction"] not in seen}.values())
    return Corpus(train, {"balanced": test, "distributed": unseen[NUM_QUERIES:]}, unseen[:NUM_QUERIES])


def mixture(path: Path, num: int | None, wrong: float, seed: int, held_out: int = 500) -> Corpus:
    """Read a JSONL file with instruction, output and source; a wrong answer is that of another row of the same source.

    The same rows are held out, and the same rows are used for training, whatever the seed.

    Args:
        num: maximum number of training rows; None: all.
    """
    rows = read_jsonl(path)
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled: Rows = [{key: rows[i][key] for key in ("instruction", "output", "source")} for i in order]
    held = min(held_out, len(rows) // 5)
    queries = min(NUM_QUERIES, held)
    train = shuffled[held + queries :][:num]
    return Corpus(swapped(train, wrong, seed), {"distributed": shuffled[:held]}, shuffled[held : held + queries])


def read_jsonl(path: Path) -> Rows:
    """Read a JSONL file, splitting only at line feeds, because texts contain other characters that end lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def swapped(rows: Rows, share: float, seed: int) -> Rows:
    """Return the rows with `is_wrong`, a share of them with the answer of another row of the same source."""
    rng = np.random.default_rng([seed, 7])
    wrong = rng.permutation(len(rows))[: round(share * len(rows))]
    of_source: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        of_source.setdefault(row["source"], []).append(i)
    made = [{**row, "is_wrong": False} for row in rows]
    for i in wrong:
        others = [j for j in of_source[rows[i]["source"]] if rows[j]["output"] != rows[i]["output"]]
        if others:
            made[i] |= {"output": rows[others[rng.integers(len(others))]]["output"], "is_wrong": True}
    return made
