"""Manifest of a stage: written last, it proves that the stage is complete and records what it was made from."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from s2l_ray.artifacts.outputs import MANIFEST_NAME, FileProblem, OutputFile
from s2l_ray.errors import DataError
from s2l_ray.storage.digests import FileDigest, digest_of
from s2l_ray.storage.fingerprint import installed_versions
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import DamagedFile, StorageError

SCHEMA_VERSION = 2
"""1 had no digests."""
SUMMARY = "said"
"""Key of the one-line summary in `extra`."""
HERE = "{folder}"
"""Placeholder for the stage's own folder in its summary and warnings, because a run may be moved or copied."""


class ManifestError(DataError):
    """Error for a manifest that exists but cannot be used; the message says why and what to do."""


class EarlierLayout(ManifestError):
    """Error for a manifest of an earlier s2l_ray, whose files have no digests and cannot be verified."""


class StageManifest(BaseModel):
    """Manifest of a complete stage."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    stage: str
    """The stage's name: `corpus`, `proxy`, …"""
    key: str
    """Fingerprint of the settings and inputs of this artifact; equal keys denote equal artifacts."""
    settings: dict[str, Any] = {}
    """Settings that the artifact depends on, with secrets masked."""
    inputs: dict[str, str] = {}
    """Inputs: name → content fingerprint."""
    content_fingerprint: str = ""
    """Fingerprint of the result, which is an input of later stages."""
    schema_version: int = SCHEMA_VERSION
    """Layout of this file."""
    row_counts: dict[str, int] = {}
    """Rows by table or by fate (kept, duplicates, quarantined)."""
    outputs: list[OutputFile] = []
    """The artifact's files."""
    seeds: dict[str, int] = {}
    """Seeds by what they seeded."""
    versions: dict[str, str] = Field(default_factory=installed_versions)
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
    """Device of the computation: `cpu`, `NVIDIA H200`, …"""
    peak_memory_bytes: int | None = None
    """Highest resident memory of the measured process (bytes)."""
    warnings: list[str] = []
    """Warnings for the user about this artifact."""
    extra: dict[str, Any] = {}
    """Stage-specific facts, as typed in artifacts.models, and the one-line summary."""
    digest: str = ""
    """SHA-256 (128 bits) of all the other fields as canonical JSON; empty until the manifest is written."""


def write_manifest(storage: Storage, manifest: StageManifest) -> StageManifest:
    """Write the manifest, atomically, which declares the stage complete; call this last.

    Returns:
        The manifest as it will be read, with its digest.

    Raises:
        ValueError: a number is not finite, so the file could not be read back.
        TypeError: settings or extra contain values that JSON cannot represent.
    """
    content = json.loads(json.dumps(manifest.model_dump(mode="python"), allow_nan=False))  # as it will be read
    content["digest"] = _digest_of_fields(content)
    storage.write_json(MANIFEST_NAME, content)
    return StageManifest.model_validate(content)


def _digest_of_fields(content: Mapping[str, Any]) -> str:
    fields = {name: value for name, value in content.items() if name != "digest"}
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return digest_of(canonical.encode("ascii")).digest


def read_manifest(storage: Storage) -> StageManifest | None:
    """Read a stage's manifest; None if the stage is not complete.

    Raises:
        EarlierLayout: the manifest was written by an s2l_ray that computed no digests.
        ManifestError: it is no file, not JSON, not a manifest, was altered, or was written by a newer s2l_ray.
    """
    where = f"{storage.uri}: {MANIFEST_NAME}"
    try:
        content = storage.read_json(MANIFEST_NAME)
    except FileNotFoundError:
        return None
    except StorageError as error:
        if not storage.is_folder(MANIFEST_NAME):
            raise
        raise ManifestError(
            f"{where} is a folder, where a file should be. Move it away to have the stage run again."
        ) from error
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
    if isinstance(version, int) and version < SCHEMA_VERSION and "stage" in content:
        raise EarlierLayout(
            f"{where} was written by an earlier s2l_ray (schema version {version}, this one's is {SCHEMA_VERSION}), "
            "without digests of the files. Run `s2l run` on this run's configuration: its stages are rebuilt "
            "next to the old ones; or continue with the s2l_ray that made it"
        )
    try:
        manifest = StageManifest.model_validate(content)
    except ValidationError as error:
        raise ManifestError(
            f"{where} is not a stage's manifest. Delete it to have the stage run again.\n{error}"
        ) from error
    if manifest.digest != _digest_of_fields(content):
        raise ManifestError(
            f"{where} was altered after it was written: its digest does not fit its fields, so none of them can be "
            "trusted. Delete it to have the stage run again, or put the original back"
        )
    return manifest


def invalidate(storage: Storage, problems: Iterable[FileProblem]) -> None:
    """Mark the stage as incomplete, and delete files that are not what was written, which would otherwise be reused."""
    storage.delete(MANIFEST_NAME)
    for problem in problems:
        storage.delete(problem.name)


@dataclasses.dataclass(frozen=True)
class ManifestFiles:
    """Digests of a complete stage's files, for `Storage.checked`; small to send, because each process reads the
    manifest when it first needs it."""

    folder: Storage
    digest: str
    """Digest of the manifest."""

    def get(self, name: str) -> FileDigest | None:
        return _files_of(self.folder, self.digest).get(name)


@functools.lru_cache(maxsize=32)
def _files_of(folder: Storage, digest: str) -> dict[str, FileDigest]:
    manifest = read_manifest(folder)
    if manifest is None or manifest.digest != digest:
        raise DamagedFile(
            f"{folder.uri} was deleted or rebuilt by another process while it was read; run the same command again"
        )
    return {output.name: output.known for output in manifest.outputs}
