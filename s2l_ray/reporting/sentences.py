"""Phrases shared by the page's verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from s2l_ray.reporting.intervals import BETTER, UNDECIDED, WORSE


def told_apart(where: Mapping[str, str], baseline: str) -> str:
    """`is better than the full data in …, but worse in …, and cannot be distinguished from it in …`.

    Args:
        where: verdict → in what; a verdict that no comparison has is missing or empty.
        baseline: what was compared with.
    """
    parts = [
        f"{word} {f'than {baseline} ' if word == BETTER or not where.get(BETTER) else ''}{where[word]}"
        for word in (BETTER, WORSE) if where.get(word)
    ]  # fmt: skip
    said = f"is {', but '.join(parts)}" if parts else ""
    if where.get(UNDECIDED):
        them = "it" if said else baseline
        said += f"{', and ' if said else ''}cannot be distinguished from {them} {where[UNDECIDED]}"
    return said


def counted(verdicts: Iterable[str]) -> str:
    """`Of 3 comparisons: 2 better, 1 worse.`, or `One comparison: better.`"""
    found = list(verdicts)
    if len(found) == 1:
        return f"One comparison: {found[0]}."
    counts = {word: found.count(word) for word in (BETTER, WORSE, UNDECIDED)}
    return f"Of {len(found)} comparisons: {', '.join(f'{n} {word}' for word, n in counts.items() if n)}."


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`; nothing for none."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
