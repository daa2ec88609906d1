"""Identify models and tokenizers by content, not by name or place: by the hub's commit, or the digests of files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.storage.digests import digest_stream
from s2l_ray.storage.fingerprint import fingerprint

_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ckpt")
_NOT_CONTENT = (".git", "README", "LICENSE", "NOTICE")
_THREADS = 4
_TIMEOUT_S = 10.0


def model_identity(model: TrainedModelConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """Return replacements for settings that name a place instead of content, and the inputs, for a stage's key.

    A local folder is identified by its files' digests and a hub repository by its name and commit, so that moving or
    touching a folder, or giving a branch instead of its commit, changes nothing.
    """
    settings: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    for name in ("model", "tokenizer"):
        where = getattr(model, name)
        if where is None:
            continue
        only_small = name == "tokenizer" or model.random_weights
        if Path(where).is_dir():
            settings[name] = None
            inputs[name] = folder_digest(Path(where), weights=not only_small)
        elif (commit := resolve_commit(where, model.revision if name == "model" else None)) is not None:
            inputs[name] = commit
            settings |= {"revision": None} if name == "model" else {}
    return settings, inputs


def tokenizer_identity(model: TrainedModelConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the same as `model_identity` for stages that only use the tokenizer; local weights do not count."""
    if model.train_tokenizer is not None:
        return {}, {}
    own = model.tokenizer is None
    where = model.model if own else model.tokenizer
    assert where is not None
    if Path(where).is_dir():
        digest = folder_digest(Path(where), weights=False)
        return {"model" if own else "tokenizer": None}, {"tokenizer": digest}
    commit = resolve_commit(where, model.revision if own else None)
    return {"revision": None} if own and commit else {}, {} if commit is None else {"tokenizer": commit}


def pinned(model: TrainedModelConfig) -> Any:
    """Return the configuration with its branch's current commit, so that all workers load the same revision."""
    if model.model is None or Path(model.model).is_dir():
        return model
    commit = resolve_commit(model.model, model.revision)
    return model if commit is None else model.model_copy(update={"revision": commit})


def folder_digest(folder: Path, weights: bool = True) -> str:
    """Return the digest of the folder's files, without times, parent folders, README and licence.

    Args:
        weights: False leaves out weights, which can be large and do not affect a tokenizer.
    """
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(_NOT_CONTENT))
    files = [p for p in files if weights or not p.name.endswith(_WEIGHTS)]
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(_digest, files))
    return fingerprint([[p.name, digest] for p, digest in zip(files, digests, strict=True)])


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return digest_stream(file).digest


_resolved: dict[tuple[str, str | None, str], str] = {}


def resolve_commit(name: str, revision: str | None, repo_type: str = "model") -> str | None:
    """Return the hub's commit for a branch or tag (None: the default branch), queried once per process.

    If the hub cannot be reached, the local cache is used; None if that has no commit either.
    """
    if revision and _COMMIT.fullmatch(revision):
        return revision
    if Path(name).exists():
        return None
    key = (name, revision, repo_type)
    if key not in _resolved:
        commit = _ask_hub(*key) or _cached_commit(*key)
        if commit is None:
            return None
        _resolved[key] = commit
    return _resolved[key]


def _ask_hub(name: str, revision: str | None, repo_type: str) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        return None
    try:
        info = HfApi().repo_info(name, revision=revision, repo_type=repo_type, timeout=_TIMEOUT_S)
    except Exception:  # raised by many libraries; loading the model later will report what is wrong
        return None
    return str(info.sha) if info.sha else None


def _cached_commit(name: str, revision: str | None, repo_type: str) -> str | None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    try:
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=repo_type)
        commit = (folder / "refs" / (revision or "main")).read_text().strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


# Keys that record where and by what a tokenizer was loaded or saved, not what it does.
_PROVENANCE = {
    "name_or_path", "is_local", "local_files_only", "transformers_version", "_commit_hash", "cache_dir", "revision",
    "force_download", "proxies", "token", "use_auth_token", "subfolder", "_from_auto", "_from_pipeline", "user_agent",
    "vocab_file", "merges_file", "tokenizer_file", "backend", "trust_remote_code",
}  # fmt: skip


def tokenizer_digest(files: Iterable[tuple[str, bytes]]) -> str:
    """Return the digest of a saved tokenizer's files, given as (name, content).

    JSON files count by their values, without what `transformers` records about itself (its version, offline mode).
    """
    contents: list[list[Any]] = []
    for name, content in sorted(files):
        if name.endswith(".json"):
            values = json.loads(content)
            if isinstance(values, dict) and name != "tokenizer.json":
                values = {key: value for key, value in values.items() if key not in _PROVENANCE}
            contents.append([name, json.dumps(values, sort_keys=True)])
        else:
            contents.append([name, content.hex()])
    return fingerprint(contents)
