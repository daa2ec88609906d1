"""Quarantine of rows that cannot be used, with origin and reason, and the limit on their share."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa

from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.units import RawRow, clip
from s2l_ray.errors import DataError, shown
from s2l_ray.storage.folder import Storage

QUARANTINE_SCHEMA = pa.schema(
    [("origin", pa.string()), ("index", pa.int64()), ("reason", pa.string()), ("text", pa.string())]
)
_ROWS_PER_FILE = 20_000
_MAX_REASONS = 10_000


class QuarantineLimitError(DataError):
    """Error for more unusable rows than `corpus.max_quarantined_share` allows."""


class QuarantineWriter:
    """Writes the unusable rows of one task, a bounded number at a time; a repeated task overwrites the same files."""

    def __init__(self, folder: Storage, number: int) -> None:
        self._folder, self._number = folder, number
        self._rows: list[dict[str, Any]] = []
        self._num_files = 0

    def add(self, raw: RawRow, reason: str) -> None:
        text = raw.text or shown(raw.row)
        self._rows.append({"origin": raw.origin, "index": raw.index, "reason": clip(reason, 600), "text": text})
        if len(self._rows) == _ROWS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write the remaining rows; call this last."""
        if self._rows:
            name = part_name(self._number)
            if self._num_files:
                name = name.replace(".parquet", f"-{self._num_files:04d}.parquet")
            self._folder.write_table(name, pa.Table.from_pylist(self._rows, schema=QUARANTINE_SCHEMA))
            self._rows, self._num_files = [], self._num_files + 1


def check_quarantine(quarantine: Storage, num_usable: int, max_share: float) -> int:
    """Count the quarantined rows.

    Raises:
        QuarantineLimitError: their share exceeds `max_share`; the message has the most common reasons and examples.
    """
    reasons: Counter[str] = Counter()
    shown_rows: list[str] = []
    for entry in quarantine.list():
        table = quarantine.read_table(entry.name, columns=["origin", "index", "reason"])
        for reason in table["reason"].to_pylist():
            known = reason in reasons or len(reasons) < _MAX_REASONS
            reasons[reason if known else "other reasons"] += 1
        if len(shown_rows) < 3:
            first = table.slice(0, 3 - len(shown_rows)).to_pylist()
            shown_rows += [f"{clip(r['origin'], 120)} at {r['index']}: {clip(r['reason'], 120)}" for r in first]
    num_bad = sum(reasons.values())
    share = num_bad / max(1, num_bad + num_usable)
    if share > max_share:
        top = "; ".join(f"{n:,} × {clip(reason)}" for reason, n in reasons.most_common(4))
        raise QuarantineLimitError(
            f"{num_bad:,} of {num_bad + num_usable:,} rows ({share:.1%}) cannot be used, more than "
            f"corpus.max_quarantined_share={max_share:.1%}. {top}. For example: {' | '.join(shown_rows)}. "
            f"All are listed in {clip(quarantine.uri)}. Fix them, or raise the share"
        )
    return num_bad
