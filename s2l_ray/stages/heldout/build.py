"""Held-out sets: the corpus's own split and the user's files, tokenised for the target.

Memory: a held-out set is held whole, by the driver while it is made and by every target worker (10 bytes a token).
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
    """A held-out set cannot be used; says which and why."""


def format_of(name: str, units: list[ReadUnit], config: CorpusConfig) -> str:
    """The format to render the set by, told by its first rows.

    Raises:
        HeldOutError: there are none, or none can be used.
    """
    return user_files.format_of(f"heldout.files.{name}", units, config, HeldOutError)


def read_files(name: str, units: list[ReadUnit], config: CorpusConfig) -> tuple[UserRows, str, int]:
    """A set of the user's files → its examples, the format to render them by, and how many rows could not be used.

    Raises:
        HeldOutError: none can be used.
    """
    return user_files.read_files(f"heldout.files.{name}", units, config, HeldOutError)


class FindInCorpus:
    """Which held-out ids are in a part of the corpus: an example that was trained on says nothing when evaluated."""

    def __init__(self, examples: Storage, ids: np.ndarray) -> None:
        self.examples, self.ids = examples, ids

    def __call__(self, part: int) -> dict[str, Any]:
        mine = ids_to_array(self.examples.read_table(part_name(part), columns=["example_id"])["example_id"])
        found = np.flatnonzero(_is_in(self.ids, mine))
        return {"part": part, "rows": len(mine), "found": found.tolist()}


def _is_in(ids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, 2), (M, 2) → (N,) bool."""
    as_rows = [np.ascontiguousarray(a).view([("high", "u8"), ("low", "u8")]).ravel() for a in (ids, others)]
    return np.isin(as_rows[0], as_rows[1])


def drop_trained_on(
    name: str, rows: UserRows, examples: Storage, parts: list[int], parallelism: int, on_rows: Callable[[int], None]
) -> tuple[UserRows, int]:
    """Leave out what is in the corpus; → (the rest, how many were left out).

    Raises:
        HeldOutError: nothing is left.
    """
    dropped = np.zeros(len(rows), dtype=bool)
    for found in map_parts(parts, FindInCorpus(examples, rows.ids), parallelism, on_rows):
        dropped[np.asarray(found["found"], dtype=np.int64)] = True
    if dropped.all():
        raise HeldOutError(
            f"heldout.files.{name}: all {len(rows)} examples are in the corpus too, so their losses would say nothing "
            "of others; give examples that are not in it, or set heldout.share instead"
        )
    return rows.without(dropped), int(dropped.sum())


def tokenise(name: str, rows: UserRows, render: Renderer) -> tuple[pa.Table, int]:
    """→ (TOKEN_SCHEMA rows, one per sequence; how many examples cannot be rendered within the target's length).

    Raises:
        HeldOutError: none had one.
    """
    return user_files.tokenise(f"held-out set {name!r}", rows, render, HeldOutError)
