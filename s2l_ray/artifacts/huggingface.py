"""A Hugging Face data set → Parquet files in the run folder, which every node can read. Streamed, never held."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_ray.artifacts.file_record import FileRecord, read_record
from s2l_ray.artifacts.outputs import OutputFile
from s2l_ray.config.corpus import HuggingFaceSource
from s2l_ray.data.sources import SourceError
from s2l_ray.lm.identity import resolve_commit
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage

FOLDER = "huggingface"
RECORD = "export.json"
ROWS_PER_FILE = 100_000


def load(source: HuggingFaceSource) -> Any:
    """The `datasets.Dataset` (memory-mapped).

    Raises:
        SourceError: no such data set, configuration or split.
    """
    import datasets

    try:
        if Path(source.name).is_dir() and (Path(source.name) / "state.json").exists():
            return datasets.load_from_disk(source.name)
        if Path(source.name).is_dir() and (Path(source.name) / "dataset_dict.json").exists():
            return datasets.load_from_disk(source.name)[source.split]
        return datasets.load_dataset(source.name, source.subset, split=source.split, revision=source.revision)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(
            f"the data set {source.name!r} (split {source.split!r}) cannot be loaded, so there is no corpus: {first} "
            "Check name, subset and split; private data sets need HF_TOKEN, a machine without internet a local folder"
        ) from error


@dataclass(frozen=True)
class Export:
    """A data set in the run folder."""

    folder: Storage
    files: list[OutputFile]
    commit: str | None
    """On the hub; None for a local folder."""


def export_parquet(source: HuggingFaceSource, run_storage: Storage, say: Callable[[str], None]) -> Export:
    """Write it, one folder for each state of the data set. Files that are there and whole are not written again.

    Args:
        say: told if something had to be written again.
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
            rows.to_parquet(file, write_page_checksum=True)
        record.files += [OutputFile.model_validate(written) for written in log.take_written()]
        record.write(folder, RECORD)
    return Export(folder, record.files, commit)


def _whole_files(folder: Storage, say: Callable[[str], None]) -> dict[str, OutputFile]:
    record = read_record(folder, RECORD)
    if record is None:
        if folder.exists(RECORD):
            say(f"[corpus] {folder.uri}/{RECORD} was altered; the data set is exported again.")
        return {}
    problems = record.problems(folder)
    if problems:
        say(f"[corpus] {problems[0].what} It is exported again.")
    damaged = {problem.name for problem in problems}
    return {file.name: file for file in record.files if file.name not in damaged}


def _state(source: HuggingFaceSource, data: Any) -> list[Any]:
    """What changes when the data set does: the library's fingerprint, which knows the commit; of a local folder, which
    can be edited under that fingerprint, the files' sizes and times too."""
    where = Path(source.name)
    files = sorted(p for p in where.rglob("*") if p.is_file()) if where.is_dir() else []
    return [str(data._fingerprint), *([str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files)]


def loaded_commit(data: Any) -> str | None:
    """The commit in the addresses that the data came from."""
    found = (re.search(r"@([0-9a-f]{40})/", address) for address in (data.info.download_checksums or ()))
    return next((match.group(1) for match in found if match), None)
