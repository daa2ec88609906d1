"""Generate the quickstart's corpus from a seed, in memory and without reading anything (20,000 rows: ~10 MB).

Training rows are long-tailed over the skills and contain exact duplicates and, on request, wrong answers. The test is
balanced by skill, its prompts occur in no training row, and its answers are always right.

Only `random.Random.random()` is used because it is the one method whose sequence Python guarantees not to change
between versions (https://docs.python.org/3/library/random.html#notes-on-reproducibility), so the same seed gives the
same bytes everywhere.
"""

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

from s2l_ray.data.quickstart.skills import SKILLS, Skill
from s2l_ray.errors import UserError

Row = dict[str, Any]


def generate_corpus(
    num_train: int = 20_000,
    num_test_per_skill: int = 50,
    seed: int = 0,
    wrong_answer_share: float = 0.0,
    duplicate_share: float = 0.03,
) -> tuple[list[Row], list[Row]]:
    """Return training rows and test rows with the columns `instruction`, `output`, `source`, `skill`.

    `duplicate_share`: fraction of the training rows that repeat another row exactly; more where a skill has fewer
    prompts than rows.

    `wrong_answer_share`: fraction of the training rows whose answer is another answer of the same skill. Each training
    row then also has `is_wrong`. Shares are nested: rows that are wrong at 0.1 are wrong in the same way at 0.3, and
    all others are the same as at 0. A wrong answer belongs to its row, so copies of a duplicated row err independently.

    The test depends only on `seed` and `num_test_per_skill`.
    """
    _check_share("wrong_answer_share", wrong_answer_share)
    _check_share("duplicate_share", duplicate_share)
    if num_train < 0:
        raise UserError(f"num_train is {num_train}: there cannot be fewer than 0 training rows; give 0 or more")
    row_counts = apportion(num_train, [skill.share for skill in SKILLS])
    copy_counts = apportion(round(num_train * duplicate_share), row_counts) if num_train else row_counts
    train: list[Row] = []
    test: list[Row] = []
    for skill, num_rows, num_copies in zip(SKILLS, row_counts, copy_counts, strict=True):
        skill_train, skill_test = _skill_rows(skill, num_rows, num_copies, num_test_per_skill, seed)
        train += skill_train
        test += skill_test
    train = _shuffled(train, Random(f"{seed}/order/train"))
    test = _shuffled(test, Random(f"{seed}/order/test"))
    if wrong_answer_share > 0:
        _spoil_answers(train, wrong_answer_share, seed)
    return train, test


def write_corpus(
    folder: Path,
    num_train: int = 20_000,
    num_test_per_skill: int = 50,
    seed: int = 0,
    wrong_answer_share: float = 0.0,
    duplicate_share: float = 0.03,
) -> tuple[Path, Path]:
    """Write `train.jsonl` and `test.jsonl` (UTF-8) to `folder`, which is created if missing, and return their paths."""
    train, test = generate_corpus(num_train, num_test_per_skill, seed, wrong_answer_share, duplicate_share)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.jsonl", folder / "test.jsonl"
    for path, rows in zip(paths, (train, test), strict=True):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_bytes(text.encode("utf-8"))  # bytes: no newline translation on any system
    return paths


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Split `total` exactly, in proportion to `weights`, by largest remainder; ties go to the earlier weight."""
    fractions = [Fraction(weight) for weight in weights]  # sum() of floats gives other last bits from Python 3.12 on
    whole = sum(fractions)
    exact = [total * fraction / whole for fraction in fractions]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise UserError(f"{name} is {share}: it is a fraction of the training rows; give a number from 0 to 1")


def _skill_rows(skill: Skill, num_rows: int, num_copies: int, num_test: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Return one skill's training and test rows. Test prompts are drawn first and never drawn again."""
    if not 0 <= num_test <= skill.space // 2:
        raise UserError(
            f"num_test_per_skill is {num_test}, but skill {skill.name!r} has {skill.space} prompts, of which at least "
            f"half are kept for training; give at most {min(s.space for s in SKILLS) // 2}"
        )
    draws = _draw_without_replacement(skill.space, Random(f"{seed}/prompts/{skill.name}"))
    test = [_row(skill, next(draws)) for _ in range(num_test)]
    num_distinct = min(num_rows and max(num_rows - num_copies, 1), skill.space - num_test)
    train = [_row(skill, next(draws)) for _ in range(num_distinct)]
    rng = Random(f"{seed}/copies/{skill.name}")
    train += [dict(train[_below(num_distinct, rng)]) for _ in range(num_rows - num_distinct)]
    return train, test


def _row(skill: Skill, index: int) -> Row:
    instruction, output = skill.example(index)
    return {"instruction": instruction, "output": output, "source": skill.source, "skill": skill.name}


def _spoil_answers(rows: list[Row], share: float, seed: int) -> None:
    """Give the rows with the smallest random keys another answer of their skill, and set `is_wrong` in every row."""
    skills = {skill.name: skill for skill in SKILLS}
    rng = Random(f"{seed}/wrong")
    keys = [rng.random() for _ in rows]
    wrong = set(sorted(range(len(rows)), key=keys.__getitem__)[: round(len(rows) * share)])
    for i, row in enumerate(rows):
        row["is_wrong"] = i in wrong
        if row["is_wrong"]:
            row["output"] = _other_answer(skills[row["skill"]], row["output"], Random(f"{seed}/wrong/{i}"))


def _other_answer(skill: Skill, right: str, rng: Random) -> str:
    """Return the answer to a random prompt of the skill, never equal to `right` (each skill has several answers)."""
    while True:
        _, answer = skill.example(_below(skill.space, rng))
        if answer != right:
            return answer


def _below(bound: int, rng: Random) -> int:
    return min(int(rng.random() * bound), bound - 1)  # min: the product may round up to `bound`


def _draw_without_replacement(size: int, rng: Random) -> Iterator[int]:
    """Yield 0 … size-1 in random order, by a Fisher-Yates shuffle that stores only the places it has touched."""
    moved: dict[int, int] = {}
    for i in range(size):
        j = i + _below(size - i, rng)
        yield moved.get(j, j)
        moved[j] = moved.pop(i, i)


def _shuffled(rows: list[Row], rng: Random) -> list[Row]:
    return [rows[i] for i in _draw_without_replacement(len(rows), rng)]
