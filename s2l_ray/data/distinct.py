"""Estimate the number of distinct values in a few kilobytes, whatever their number.

The estimate uses the k smallest hashes: if the k-th smallest of D uniform hashes lies at the share s of their range, D
is about (k - 1) / s (Bar-Yossef et al. 2002, https://doi.org/10.1007/3-540-45726-7_1). Sketches of parts merge into the
sketch of the whole, whatever the parts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

_K = 512
_RANGE = 2**64


@dataclass
class DistinctValues:
    """Sketch with the `_K` smallest hashes of the values so far; exact up to `_K` values, then within about 5 %."""

    smallest: set[int] = field(default_factory=set)
    _bound: int = field(default=_RANGE, compare=False, repr=False)
    """Hashes from this one on are not among the smallest."""
    _last: str | None = field(default=None, compare=False, repr=False)

    def add(self, value: str) -> None:
        """Include one value."""
        if value == self._last:  # rows of one source often follow one another
            return
        self._last = value
        digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
        self._take(int.from_bytes(digest, "big"))

    def merge(self, hashes: list[int]) -> None:
        """Include the hashes of another sketch."""
        for one in hashes:
            self._take(one)

    def _take(self, one: int) -> None:
        if one >= self._bound or one in self.smallest:
            return
        self.smallest.add(one)
        if len(self.smallest) > _K:
            self.smallest.remove(max(self.smallest))
            self._bound = max(self.smallest)

    def estimate(self) -> int:
        """Return the estimated number of distinct values."""
        if len(self.smallest) < _K:
            return len(self.smallest)
        return round((_K - 1) / (max(self.smallest) / _RANGE))
