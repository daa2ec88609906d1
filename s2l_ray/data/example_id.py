"""Example ids: 16 bytes, a hash of the content only."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.errors import DataError

ID_BYTES = 16
ID_TYPE = pa.binary(ID_BYTES)

Messages = list[dict[str, Any]]

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


def content_id(messages: Messages, tools: list[Any] | None = None) -> bytes:
    """Hash all content that is used with BLAKE2b-128: roles, texts, other parts of turns, and tools.

    Other parts of turns are tool calls, reasoning and weights. Further columns (source, the user's own ids) do not
    count.
    """
    turns = [[m["role"], m["content"]] if len(m) == 2 else _canonical(m) for m in messages]
    canonical = _encode(turns + [{"tools": tools}] if tools else turns)
    return hashlib.blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=ID_BYTES).digest()


def _canonical(turn: dict[str, Any]) -> list[Any]:
    more = {key: value for key, value in turn.items() if key not in ("role", "content")}
    return [turn["role"], turn["content"], more]


def occurrence_id(content: bytes, occurrence: int) -> bytes:
    """Return the id of the n-th exact duplicate; the first keeps the content's own id."""
    if occurrence == 0:
        return content
    return hashlib.blake2b(content + occurrence.to_bytes(8, "big"), digest_size=ID_BYTES).digest()


def ids_to_array(ids: pa.Array | pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Convert (N,) fixed-size binary ids to (N, 2) uint64, high and low half; rows sort as the ids do.

    Raises:
        DataError: an id is null.
    """
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if ids.null_count:
        raise DataError(f"{ids.null_count} example ids are missing; the file is damaged, delete it and run again")
    _, data = ids.buffers()
    raw = np.frombuffer(data, dtype=">u8", count=2 * len(ids), offset=ids.offset * ID_BYTES)
    return raw.reshape(-1, 2).astype(np.uint64)


def array_to_ids(array: np.ndarray) -> pa.Array:
    """Convert (N, 2) uint64 ids to (N,) fixed-size binary."""
    data = np.ascontiguousarray(array, dtype=np.uint64).astype(">u8").tobytes()
    return pa.Array.from_buffers(ID_TYPE, len(array), [None, pa.py_buffer(data)])


def array_to_hex(array: np.ndarray) -> list[str]:
    """Convert (N, 2) uint64 ids to the 32 hex digits that users see."""
    data = np.ascontiguousarray(array, dtype=np.uint64).astype(">u8").tobytes().hex()
    return [data[i : i + 2 * ID_BYTES] for i in range(0, len(data), 2 * ID_BYTES)]
