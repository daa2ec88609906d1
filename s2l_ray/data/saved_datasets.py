"""Find the data files in folders written by `Dataset.save_to_disk` of Hugging Face's datasets.

Besides the data, such a folder contains metadata of the library, and caches of `map` that look like data.
https://huggingface.co/docs/datasets/about_arrow
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from s2l_ray.data.units import SourceError, clip, clip_names

STATE, SPLITS = "state.json", "dataset_dict.json"
METADATA = frozenset({STATE, SPLITS, "dataset_info.json", "dataset_infos.json"})
"""Files that describe data but contain none: they are skipped in listings, with a message."""


def files_of_state(content: bytes, folder: str) -> list[str] | None:
    """Return the data files that a `state.json` lists; None: the file is from another program.

    Raises:
        SourceError: the file is not JSON.
    """
    state = _json(content, f"{folder}/{STATE}")
    files = state.get("_data_files") if isinstance(state, dict) else None
    return None if not isinstance(files, list) else [str(file["filename"]) for file in files]


def only_split(content: bytes, folder: str) -> str:
    """Return the only split that a `dataset_dict.json` lists.

    Raises:
        SourceError: there are several splits, which must not be mixed.
    """
    tree = _json(content, f"{folder}/{SPLITS}")
    splits = tree.get("splits", []) if isinstance(tree, dict) else []
    if len(splits) != 1:
        first = splits[0] if splits else "train"
        raise SourceError(
            f"{clip(folder)!r} is a saved dataset with the splits {clip_names(splits)}, which must not be mixed; name "
            f"the folder of one of them, for example {clip(folder)}/{first}"
        )
    return str(splits[0])


def check_present(files: Collection[str], present: Collection[str], folder: str) -> None:
    """Raise SourceError if a file of the dataset is missing."""
    if missing := sorted(set(files) - set(present)):
        raise SourceError(
            f"{clip(folder)!r} is a saved dataset that lacks {clip_names(missing)}, so rows would be missing; copy "
            "the whole folder again"
        )


def _json(content: bytes, name: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{clip(name)!r} cannot be read ({clip(error)}); save the dataset again") from error
