"""Parquet with checksums, which turn altered bytes into errors; without them, most would be read as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from s2l_ray.storage.digests import CURE
from s2l_ray.storage.retry import DamagedFile

# pyarrow reports all of these as plain OSErrors, like network errors.
_DAMAGE_MARKS = ("CRC checksum", "Parquet", "thrift", "flatbuffers", "decompression failed", "Corrupt", "end of stream",
                 "levels do not match", "dictionary encoding")  # fmt: skip


def write_parquet(table: pa.Table, stream: IO[bytes], **options: Any) -> None:
    """Write a table with checksums; options as for `pyarrow.parquet.write_table`."""
    pq.write_table(table, stream, write_page_checksum=True, **options)


def read_parquet(
    file: pa.NativeFile, uri: str, columns: list[str] | None, filters: Any, optional: Sequence[str] = ()
) -> pa.Table:
    """Read the whole table, or the rows that pass `filters`.

    Args:
        optional: columns to read in addition to `columns`, if the file has them.

    Raises:
        DamagedFile: the file is truncated or altered; the message names `uri`.
        pa.ArrowInvalid: a column is unknown.
    """
    try:
        if columns is not None and optional:
            present = pq.read_schema(file).names
            columns = [*columns, *(name for name in optional if name in present)]
            file.seek(0)
        return pq.read_table(file, columns=columns, partitioning=None, filters=filters, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        if not _is_damage(error):
            raise
        raise DamagedFile(f"{uri} is damaged ({error}), so its contents are lost. {CURE}") from error


def _is_damage(error: Exception) -> bool:
    """Whether the error means damaged bytes, not a failed connection, lack of memory or an unknown column."""
    if isinstance(error, OSError):
        return error.errno is None and any(mark in str(error) for mark in _DAMAGE_MARKS)
    return not isinstance(error, MemoryError) and "FieldRef" not in str(error)
