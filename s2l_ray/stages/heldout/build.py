"""Held-out sets: the corpus's own split and the user's files, tokenised for the target.

Memory: the driver, while building a held-out set, and every target worker hold the whole set (10 bytes per token).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.config.corpus import CorpusConfig
from s2l_ray.data import user_files
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ids_to_array
from s2l_ray.data.render import Renderer
from s2l_ray.data.units import ReadUnit
from s2l_ray.data.user_files import UserRows
from s2l_ray.errors import UserError
from s2l_ray.execution.part_tasks import map_parts
from s2l_ray.storage.folder import Storage


class HeldOutError(UserError):
    """A held-out set cannot be used; the message says which and why."""


def format_of(name: str, units: list[ReadUnit], config: CorpusConfig) -> str:
    """The format in which to render the set, determined by its first rows.

    Raises:
        HeldOutError: there are no rows, or none is usable.
    """
    return user_files.format_of(f"heldout.files.{name}", units, config, HeldOutError)


def read_files(name: str, units: list[ReadUnit], config: CorpusConfig) -> tuple[UserRows, str, int]:
    """Read a set from the user's files → its examples, the format to render them in, and the number of unusable rows.

    Raises:
        HeldOutError: no row is usable.
    """
    return user_files.read_files(f"heldout.files.{name}", units, config, HeldOutError)


class FindInCorpus:
    """Finds held-out ids in a part of the corpus: evaluating examples that were trained on would be meaningless."""

    def __init__(self, examples: Storage, ids: np.ndarray) -> None:
        self.examples, self.ids = examples, ids

    def __call__(self, part: int) -> dict[str, Any]:
        mine = ids_to_array(self.examples.read_table(part_name(part), columns=["example_id"])["example_id"])
        found = np.flatnonzero(_is_in(self.ids, mine))
        return {"part": part, "rows": len(mine), "found": found.tolist()}


def _is_in(ids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each of the ids (N, 2) is among the others (M, 2), as (N,) bool."""
    as_rows = [np.ascontiguousarray(a).view([("high", "u8"), ("low", "u8")]).ravel() for a in (ids, others)]
    return np.isin(as_rows[0], as_rows[1])


def drop_trained_on(
    name: str, rows: UserRows, examples: Storage, parts: list[int], parallelism: int, on_rows: Callable[[int], None]
) -> tuple[UserRows, int]:
    """Leave out examples that are also in the corpus → (the others, how many were left out).

    Raises:
        HeldOutError: no example is left.
    """
    dropped = np.zeros(len(rows), dtype=bool)
    for found in map_parts(parts, FindInCorpus(examples, rows.ids), parallelism, on_rows):
        dropped[np.asarray(found["found"], dtype=np.int64)] = True
    if dropped.all():
        raise HeldOutError(
            f"heldout.files.{name}: all {len(rows)} examples are in the corpus too, so their losses would say nothing "
            "about others; use examples that are not in it, or set heldout.share instead"
        )
    return rows.without(dropped), int(dropped.sum())


def tokenise(name: str, rows: UserRows, render: Renderer) -> tuple[pa.Table, int]:
    """Tokenise → (TOKEN_SCHEMA rows, one per sequence; how many examples cannot be rendered within the target's
    length).

    Raises:
        HeldOutError: no example can be rendered.
    """
    return user_files.tokenise(f"held-out set {name!r}", rows, render, HeldOutError)
