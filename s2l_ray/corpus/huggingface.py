"""A Hugging Face data set → Parquet files in the run folder, which every node can read. Streamed, never held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2l_ray.config.corpus import HuggingFaceSource
from s2l_ray.corpus.sources import SourceError
from s2l_ray.run_folder.storage import Storage

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


def export_parquet(source: HuggingFaceSource, run_storage: Storage) -> tuple[Storage, str, list[str]]:
    """→ (folder, fingerprint of the data, file names). Files of the same data set are not written twice."""
    data = load(source)
    folder = run_storage.sub("huggingface", str(data._fingerprint))
    num_files = max(1, -(-len(data) // ROWS_PER_FILE))
    names = [f"{source.split}-{i:05d}-of-{num_files:05d}.parquet" for i in range(num_files)]
    there = {e.name for e in folder.list()}
    for i, name in enumerate(names):
        if name not in there:
            rows = data.select(range(i * ROWS_PER_FILE, min(len(data), (i + 1) * ROWS_PER_FILE)))
            with folder.atomic_output(name) as file:
                rows.to_parquet(file)
    return folder, str(data._fingerprint), names
