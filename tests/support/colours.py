"""A corpus that a tiny model learns in seconds, in part: colours of things indefinitely, answers of sums never."""

from __future__ import annotations

import random
from typing import Any

COLOURS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black", "rose": "red", "lemon": "yellow"}


def colour_rows(num: int, seed: int, hard_share: float = 0.25, answers: int = 4) -> list[dict[str, Any]]:
    """Two sources: `easy`, and `hard`, whose answers are one of so many digits, and nobody can tell which."""
    rng = random.Random(seed)
    rows = []
    for _ in range(num):
        if rng.random() >= hard_share:
            thing = rng.choice(list(COLOURS))
            row = {"instruction": f"{rng.randrange(10_000)} {thing}", "output": COLOURS[thing], "source": "easy"}
        else:
            a, b = rng.randrange(1000), rng.randrange(1000)
            row = {"instruction": f"{a} and {b}", "output": str(rng.randrange(answers)), "source": "hard"}
        rows.append(row)
    return rows
