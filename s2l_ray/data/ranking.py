"""Seeded order of examples: a pure function of (seed, example id), independent of partitions and nodes.

Memory for N examples: about 40 N bytes at the peak of `rank_within`, in addition to its inputs.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from s2l_ray.errors import DataError

CHUNK_ROWS = 1 << 18

Array = np.ndarray[Any, np.dtype[Any]]


def sampling_keys(example_ids: Array, seed: int, purpose: str = "sampling") -> Array:
    """Map ids, (N, 2) uint64 with high and low halves, to uniform keys, (N,) uint64.

    Keys of different seeds or purposes are independent. Both halves pass through the finaliser, so that ids that are
    not hashes (or share a prefix) are shuffled, too.

    Raises:
        DataError: the ids have another shape or type.
    """
    _check_ids(example_ids)
    digest = hashlib.blake2b(f"s2l_ray/{purpose}-keys/{seed}".encode(), digest_size=16).digest()
    key_high, key_low = np.frombuffer(digest, dtype=">u8").astype(np.uint64)
    keys = np.empty(len(example_ids), dtype=np.uint64)
    for start in range(0, len(keys), CHUNK_ROWS):  # chunks and their temporaries stay in the cache
        ids = example_ids[start : start + CHUNK_ROWS]
        mixed = _mix(ids[:, 0] ^ key_high)
        mixed ^= ids[:, 1]
        mixed += key_low
        keys[start : start + CHUNK_ROWS] = _mix(mixed)
    return keys


def priority_keys(names: list[str], seed: int) -> Array:
    """Return (K,) uint64 keys that order named groups by seed; names, unlike numbers, do not depend on row order."""
    digests = [hashlib.blake2b(f"s2l_ray/priority/{seed}/{n}".encode(), digest_size=8).digest() for n in names]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


def rank_within(groups: Array, keys: Array, example_ids: Array) -> Array:
    """Return each row's 0-based rank within its group by (key, id), (N,) int64; row order has no influence.

    Args:
        groups: (N,) codes from 0.
        keys: (N,) uint64.
        example_ids: (N, 2) uint64.

    Raises:
        DataError: lengths differ, or an example id occurs twice, so that its rank would depend on row order.
    """
    _check_ids(example_ids)
    if not len(groups) == len(keys) == len(example_ids):
        raise DataError(
            "groups, keys and example ids must have the same length, not "
            f"{len(groups)}, {len(keys)} and {len(example_ids)}"
        )
    if len(groups) == 0:
        return np.empty(0, dtype=np.int64)
    order = _order_by_key(keys, example_ids)  # (N,)
    # numpy's stable sort of 16-bit integers is a radix sort: linear, where 64-bit codes take seconds more.
    codes = groups.astype(np.uint16) if groups.max() < 2**16 else groups
    order = order[np.argsort(codes[order], kind="stable")]
    starts = np.cumsum(np.bincount(groups)) - np.bincount(groups)  # (K,) first position of each group
    rank = np.empty(len(groups), dtype=np.int64)
    for start in range(0, len(order), CHUNK_ROWS):
        rows = order[start : start + CHUNK_ROWS]
        rank[rows] = np.arange(start, start + len(rows)) - starts[groups[rows]]
    return rank


def _order_by_key(keys: Array, example_ids: Array) -> Array:
    """Return row indices (N,) in ascending (key, id) order."""
    order = np.argsort(keys)  # not stable, but several times faster; equal keys are checked below
    if not _has_neighbours(keys, order):
        return order
    order = np.lexsort((example_ids[:, 1], example_ids[:, 0], keys))
    high, low = example_ids[order, 0], example_ids[order, 1]
    twice = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    if twice.any():
        at = int(np.flatnonzero(twice)[0])
        example = f"{int(high[at]):016x}{int(low[at]):016x}"
        raise DataError(
            f"{int(twice.sum()):,} example ids occur more than once, for example {example}; a subset of ids "
            "would be ambiguous. Ids must be unique: build the corpus again"
        )
    return order


def _has_neighbours(keys: Array, order: Array) -> bool:
    """Whether two rows have the same key."""
    for start in range(0, len(order) - 1, CHUNK_ROWS):
        ascending = keys[order[start : start + CHUNK_ROWS + 1]]
        if (ascending[1:] == ascending[:-1]).any():
            return True
    return False


def _mix(z: Array) -> Array:
    """Apply splitmix64's finaliser in place: mix 13 of https://prng.di.unimi.it/splitmix64.c (public domain)."""
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def _check_ids(example_ids: Array) -> None:
    if example_ids.ndim != 2 or example_ids.shape[1] != 2 or example_ids.dtype != np.uint64:
        raise DataError(f"example ids must be (N, 2) uint64, not {example_ids.shape} {example_ids.dtype}")
