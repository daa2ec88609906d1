"""Plan slices of files as read units, and read the rows of a unit."""

from __future__ import annotations

import csv
import logging
import zlib
from collections.abc import Callable, Iterator

import pyarrow as pa

from s2l_ray.config.corpus import MAX_ROW_BYTES
from s2l_ray.data.arrow_rows import read_arrow
from s2l_ray.data.diagnosis import diagnose
from s2l_ray.data.discovery import find_files, resolve_filesystem
from s2l_ray.data.file_names import KINDS, FoundFile, kind_of
from s2l_ray.data.parquet_rows import read_parquet
from s2l_ray.data.readers import encoding_hint, read_csv, read_json, read_jsonl
from s2l_ray.data.unchanged import check_digest, check_unchanged
from s2l_ray.data.units import RawRow, ReadUnit, SourceError, clip
from s2l_ray.text.redact import redact_text, strip_credentials

logger = logging.getLogger(__name__)


def plan_files(
    paths: list[str],
    bytes_per_task: int,
    setting: str = "corpus.paths",
    run_uri: str | None = None,
    say: Callable[[str], None] = logger.warning,
) -> list[ReadUnit]:
    """Expand files, folders and globs to read units, in a fixed order.

    Args:
        setting: the setting that names the paths, for messages.
        run_uri: the run that reads the files; its own files are refused.
        say: called with messages about excluded run folders and files.

    Raises:
        SourceError: nothing was found, a named file is of no supported kind, or something cannot be read as a file.
    """
    units: list[ReadUnit] = []
    for pattern in paths:
        for uri, file in find_files(pattern, setting, run_uri, say):
            units.extend(_slices(uri, file, bytes_per_task, setting))
    if not units:
        raise SourceError(
            f"{setting}: all files under {clip([strip_credentials(p) for p in paths])} are empty, so there is nothing "
            "to read; name files with data"
        )
    return units


def _slices(uri: str, file: FoundFile, bytes_per_task: int, setting: str) -> Iterator[ReadUnit]:
    kind, compression = kind_of(file.path)
    if kind is None:
        raise SourceError(
            f"{setting}: {clip(strip_credentials(uri))!r} is of no supported kind ({KINDS}), so it cannot be read; "
            "rename or convert it, or narrow the pattern"
        )
    if file.size == 0:
        return
    size, mtime = file.size, file.mtime_ns
    if kind != "jsonl" or compression:
        yield ReadUnit(uri, kind, compression, size=size, mtime_ns=mtime)
        return
    for start in range(0, size, bytes_per_task):
        yield ReadUnit(uri, kind, None, start, min(size, start + bytes_per_task), size, mtime)


_READERS = {"parquet": read_parquet, "jsonl": read_jsonl, "json": read_json, "csv": read_csv, "arrow": read_arrow}


def read_unit(unit: ReadUnit, max_row_bytes: int = MAX_ROW_BYTES) -> Iterator[RawRow]:
    """Yield the rows of one unit.

    Raises:
        SourceError: the file cannot be opened or decoded at all, has changed since it was planned, or has a row of more
            than `max_row_bytes`.
    """
    try:
        filesystem, path = resolve_filesystem(unit.uri)
        check_unchanged(unit, filesystem, path)
        check_digest(unit, filesystem, path)
        yield from _READERS[unit.kind](unit, filesystem, path, max_row_bytes)
        check_unchanged(unit, filesystem, path)
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error, zlib.error) as error:
        why, hint = _why(error), diagnose(unit)
        if hint not in why:
            why += f"; {hint}"
        raise SourceError(
            f"{clip(unit.origin)} cannot be read ({why}), so its rows would be missing. "
            "Repair the file, or remove it from the corpus"
        ) from error


def _why(error: Exception) -> str:
    if "too much memory" in str(error):
        return "it was packed with a window of more than 128 MiB; repack it without --long or --ultra"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {clip(error.reason)} at byte {error.start:,} of a piece{encoding_hint(error.object)}"
    return clip(redact_text(str(error)), 600)
