"""What a stage leaves behind last: the proof that it is complete, and of what it was made."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from s2l_ray.errors import DataError
from s2l_ray.run_folder.storage import Storage

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1
_PACKAGES = ("s2l_ray", "torch", "ray", "transformers", "faiss-cpu", "faiss-gpu", "pyarrow", "numpy")


class ManifestError(DataError):
    """A manifest is there and cannot be used; the message says why and what to do."""


class OutputFile(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str
    """Path relative to the stage's folder."""
    size: int
    """Bytes."""


class StageManifest(BaseModel):
    """One complete stage."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    stage: str
    """The stage's name: `corpus`, `proxy`, …"""
    key: str
    """Fingerprint of the settings and inputs that made this artifact: equal key, equal artifact."""
    settings: dict[str, Any] = {}
    """The part of the config that the artifact depends on, secrets masked."""
    inputs: dict[str, str] = {}
    """What was read: name → content fingerprint."""
    content_fingerprint: str = ""
    """Fingerprint of what was made; later stages take it as their input."""
    schema_version: int = SCHEMA_VERSION
    """Layout of this file."""
    row_counts: dict[str, int] = {}
    """Rows by table or by fate (kept, duplicates, quarantined)."""
    outputs: list[OutputFile] = []
    """The artifact's files."""
    seeds: dict[str, int] = {}
    """Seeds by what they seeded."""
    versions: dict[str, str] = Field(default_factory=lambda: installed_versions())
    """Python and the libraries that matter, as installed where the manifest was made."""
    started_at: str = ""
    """ISO 8601, UTC."""
    finished_at: str = ""
    """ISO 8601, UTC."""
    wall_seconds: float = 0.0
    """Elapsed time (seconds)."""
    device_seconds: float = 0.0
    """Elapsed time times the devices held (seconds)."""
    device: str = "cpu"
    """What computed: `cpu`, `NVIDIA H200`, …"""
    peak_memory_bytes: int | None = None
    """Highest resident memory of the process that was measured (bytes)."""
    warnings: list[str] = []
    """What the user should know about this artifact."""
    extra: dict[str, Any] = {}
    """Figures of this stage alone."""


def fingerprint(obj: Any) -> str:
    """A stable name for plain data: blake2b over canonical JSON, 32 hexadecimal characters.

    Equal for mappings of any order, for tuples and lists, for a model and the mapping of its fields; different for 1,
    1.0 and True. Takes None, bool, int, finite float, str, enum, path, list, tuple, mapping with string keys,
    dataclass and pydantic model.

    Raises:
        ValueError: a NaN or infinity (NaN is not equal to itself, so nothing holding one is ever "unchanged").
        TypeError: any other type, or a key that is no string.
    """
    canonical = json.dumps(_plain(obj, "it"), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(canonical.encode("ascii"), digest_size=16).hexdigest()


def installed_versions() -> dict[str, str]:
    """Versions of Python and of those libraries that are installed, without importing any."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def write_manifest(storage: Storage, manifest: StageManifest) -> None:
    """Declare the stage complete: call it last. The file appears atomically.

    Raises:
        ValueError: a number is not finite, so the file could not be read back.
        TypeError: settings or extra hold what JSON lacks.
    """
    storage.write_json(MANIFEST_NAME, manifest.model_dump(mode="python"))


def read_manifest(storage: Storage) -> StageManifest | None:
    """The stage's manifest; None if the stage is not complete.

    Raises:
        ManifestError: it is no JSON, not a manifest, or written by a newer s2l_ray.
    """
    where = f"{storage.uri}: {MANIFEST_NAME}"
    try:
        content = storage.read_json(MANIFEST_NAME)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ManifestError(
            f"{where} cannot be read ({error}). Delete that file to have the stage run again."
        ) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ManifestError(
            f"{where} has schema version {version}, this s2l_ray knows up to {SCHEMA_VERSION}: the run was made by a "
            "newer version. Upgrade s2l_ray, or start another run folder."
        )
    try:
        return StageManifest.model_validate(content)
    except ValidationError as error:
        raise ManifestError(
            f"{where} is not a stage's manifest. Delete it to have the stage run again.\n{error}"
        ) from error


def list_outputs(storage: Storage) -> list[OutputFile]:
    """Every file of a stage's folder except the manifest, for `StageManifest.outputs`."""
    entries = storage.list(recursive=True)
    return [OutputFile(name=entry.name, size=entry.size) for entry in entries if entry.name != MANIFEST_NAME]


def verify_outputs(storage: Storage, manifest: StageManifest) -> list[str]:
    """What is wrong with the artifact's files: one sentence for each that is missing or has another size."""
    sizes = {entry.name: entry.size for entry in storage.list(recursive=True)}
    problems = []
    for output in manifest.outputs:
        if output.name not in sizes:
            problems.append(f"{output.name} is missing from {storage.uri}.")
        elif sizes[output.name] != output.size:
            problems.append(
                f"{output.name} in {storage.uri} has {sizes[output.name]:,} bytes, the manifest says {output.size:,}."
            )
    return problems


def retract(storage: Storage, manifest: StageManifest) -> None:
    """The stage is complete no longer; files of another size than they were written with go too: they are damaged."""
    storage.delete(MANIFEST_NAME)
    sizes = {output.name: output.size for output in manifest.outputs}
    for entry in storage.list(recursive=True):
        if sizes.get(entry.name, entry.size) != entry.size:
            storage.delete(entry.name)


def _plain(obj: Any, where: str) -> Any:
    if isinstance(obj, enum.Enum):
        return _plain(obj.value, where)
    if obj is None or isinstance(obj, bool):
        return obj
    if isinstance(obj, int):
        return int(obj)
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise ValueError(f"No fingerprint: {where} is {float(obj)!r}; only finite numbers identify an artifact.")
        return float(obj)  # numpy's float64 is a float with another repr
    if isinstance(obj, (str, PurePath)):
        return str(obj)
    if isinstance(obj, (list, tuple)):
        return [_plain(value, f"{where}[{index}]") for index, value in enumerate(obj)]
    if isinstance(obj, BaseModel):
        return _plain(obj.model_dump(mode="python"), where)
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        fields = {field.name: getattr(obj, field.name) for field in dataclasses.fields(obj)}
        return _plain(fields, where)
    if isinstance(obj, Mapping):
        for key in obj:
            if type(key) is not str:
                raise TypeError(f"No fingerprint: {where} has the key {key!r}; keys must be strings.")
        return {key: _plain(value, f"{where}.{key}") for key, value in obj.items()}
    raise TypeError(f"No fingerprint: {where} is a {type(obj).__name__}; turn it into plain data first.")
