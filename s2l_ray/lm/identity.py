"""What a model or tokenizer is, whatever it is called and wherever it lies: the hub's commit, or the files' digests."""

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
    """For a stage's key: settings that name a place instead of a content, each with its replacement; and the inputs.

    A local folder counts by its files' digests and a hub's repository by its name and commit, so that moving or
    touching a folder, or writing a branch's name instead of its commit, changes nothing.
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
    """The same for where the tokenizer alone is used; of a local model its weights do not count."""
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
    """With the commit that its branch stands for now: all workers load the same, whenever they start."""
    if model.model is None or Path(model.model).is_dir():
        return model
    commit = resolve_commit(model.model, model.revision)
    return model if commit is None else model.model_copy(update={"revision": commit})


def folder_digest(folder: Path, weights: bool = True) -> str:
    """Of the content of its files, not of names above them or times; README and licence do not count.

    Args:
        weights: False leaves them out: they can be large, and a tokenizer does not depend on them.
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
    """The hub's commit that a branch or tag (None: the default branch) stands for, asked once a process.

    From the local cache where the hub cannot be asked; None if that has none either.
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
    except Exception:  # of many libraries; whoever loads the model next says what is wrong
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


# Keys that say where and by what a tokenizer was loaded or saved, not what it does.
_PROVENANCE = {
    "name_or_path", "is_local", "local_files_only", "transformers_version", "_commit_hash", "cache_dir", "revision",
    "force_download", "proxies", "token", "use_auth_token", "subfolder", "_from_auto", "_from_pipeline", "user_agent",
    "vocab_file", "merges_file", "tokenizer_file", "backend", "trust_remote_code",
}  # fmt: skip


def tokenizer_digest(files: Iterable[tuple[str, bytes]]) -> str:
    """Of the files of a saved tokenizer (name, content): JSON as its values, without what `transformers` notes there
    of itself, its version and whether it was offline."""
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
