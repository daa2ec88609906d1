"""Export a Hugging Face dataset to Parquet files in the run folder, which every node can read, by streaming."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from s2l_ray.artifacts.file_record import FileRecord, read_record
from s2l_ray.artifacts.outputs import OutputFile
from s2l_ray.config.corpus import HuggingFaceSource
from s2l_ray.data.arrow_rows import class_names, with_class_names
from s2l_ray.data.saved_datasets import SPLITS, STATE, files_of_state
from s2l_ray.data.units import SourceError, clip_names
from s2l_ray.lm.identity import resolve_commit
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage

FOLDER = "huggingface"
RECORD = "export.json"
ROWS_PER_FILE = 100_000
_BATCH_ROWS = 1000


def load(source: HuggingFaceSource) -> Any:
    """Load the `datasets.Dataset` (memory-mapped).

    Raises:
        SourceError: the dataset, configuration or split does not exist, or has no rows.
    """
    import datasets

    what = f"the dataset {source.name!r} (split {source.split!r})"
    try:
        folder = _saved_folder(source, what)
        if folder is None:
            data = datasets.load_dataset(source.name, source.subset, split=source.split, revision=source.revision)
        elif files_of_state(Path(folder, STATE).read_bytes(), str(folder)) == []:
            data = ()  # datasets itself cannot load this
        else:
            data = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, ImportError) as error:
        if isinstance(error, SourceError):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(
            f"{what} cannot be loaded, so there is no corpus: {first} "
            "Check name, subset and split; private datasets need HF_TOKEN, and a machine without internet access needs "
            "a local folder"
        ) from error
    if len(data) == 0:
        raise SourceError(f"{what} has no rows, so there is nothing to select from; set corpus.huggingface.split")
    return data


def check_saved(source: HuggingFaceSource) -> None:
    """Raises SourceError if the source is a folder written by `Dataset.save_to_disk` without the split; anything else
    is known only once it is loaded."""
    _saved_folder(source, f"the dataset {source.name!r} (split {source.split!r})")


def _saved_folder(source: HuggingFaceSource, what: str) -> Path | None:
    """Return the folder of the split if `save_to_disk` wrote the dataset; None: it did not."""
    folder = Path(source.name)
    if (folder / STATE).exists():
        return folder
    if not (folder / SPLITS).exists():
        return None
    splits = json.loads((folder / SPLITS).read_bytes())["splits"]
    if source.split not in splits:
        raise SourceError(
            f"{what} cannot be loaded, so there is no corpus: it has no such split; its splits are "
            f"{clip_names(splits)}. Set corpus.huggingface.split"
        )
    return folder / source.split


@dataclass(frozen=True)
class Export:
    """A dataset exported to the run folder."""

    folder: Storage
    files: list[OutputFile]
    commit: str | None
    """Commit on the hub; None for a local folder."""


def export_parquet(source: HuggingFaceSource, run_storage: Storage, say: Callable[[str], None]) -> Export:
    """Write a dataset, with one folder for each of its states; intact files are not written again.

    Args:
        say: called with a message if files are written again.
    """
    data = load(source)
    commit = loaded_commit(data) or resolve_commit(source.name, source.revision, "dataset")
    of: dict[str, Any] = {
        "name": source.name,
        "subset": source.subset,
        "split": source.split,
        "state": _state(source, data),
    }
    of["commit"] = commit
    folder = run_storage.sub(FOLDER, fingerprint(of)[:16])
    num_files = max(1, -(-len(data) // ROWS_PER_FILE))
    names = [f"{source.split}-{i:05d}-of-{num_files:05d}.parquet" for i in range(num_files)]
    there = _whole_files(folder, say)
    record = FileRecord(of)
    log = folder.recording()
    for i, name in enumerate(names):
        if name in there:
            record.files.append(there[name])
            continue
        rows = data.select(range(i * ROWS_PER_FILE, min(len(data), (i + 1) * ROWS_PER_FILE)))
        with log.atomic_output(name) as file:
            _write_parquet(rows, file)
        record.files += [OutputFile.model_validate(written) for written in log.take_written()]
        record.write(folder, RECORD)
    return Export(folder, record.files, commit)


def _write_parquet(rows: Any, file: IO[bytes]) -> None:
    """Write some rows, with class labels as names."""
    names = class_names(rows.features.arrow_schema)
    if not names:
        rows.to_parquet(file, write_page_checksum=True)
        return
    fields = [pa.field(f.name, pa.string()) if f.name in names else f for f in rows.features.arrow_schema]
    with pq.ParquetWriter(file, pa.schema(fields), write_page_checksum=True) as writer:
        for table in rows.with_format("arrow").iter(_BATCH_ROWS):
            for batch in table.to_batches():
                writer.write_batch(with_class_names(batch, names))


def _whole_files(folder: Storage, say: Callable[[str], None]) -> dict[str, OutputFile]:
    record = read_record(folder, RECORD)
    if record is None:
        if folder.exists(RECORD):
            say(f"[corpus] {folder.uri_of(RECORD)} was altered; the dataset is exported again.")
        return {}
    problems = record.problems(folder)
    if problems:
        say(f"[corpus] {problems[0].what} It is exported again.")
    damaged = {problem.name for problem in problems}
    return {file.name: file for file in record.files if file.name not in damaged}


def _state(source: HuggingFaceSource, data: Any) -> list[Any]:
    """Return data that change with the dataset: the library's fingerprint, which includes the commit, and the sizes and
    times of files in a local folder, which can be edited without changing that fingerprint."""
    where = Path(source.name)
    files = sorted(p for p in where.rglob("*") if p.is_file()) if where.is_dir() else []
    return [str(data._fingerprint), *([str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files)]


def loaded_commit(data: Any) -> str | None:
    """Return the commit in the addresses from which the data were loaded."""
    found = (re.search(r"@([0-9a-f]{40})/", address) for address in (data.info.download_checksums or ()))
    return next((match.group(1) for match in found if match), None)
