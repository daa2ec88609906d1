"""Stages: the specification (`StageSpec`), the builder's result (`StageResult`), and the complete stage (`Stage`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from s2l_ray.artifacts.manifest import HERE, SUMMARY, ManifestFiles, StageManifest
from s2l_ray.artifacts.models import Artifact
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage


@dataclass
class StageResult:
    """Result that a stage's builder returns."""

    content: str
    """Fingerprint of the result."""
    row_counts: dict[str, int]
    artifact: Artifact
    warnings: list[str] = field(default_factory=list)
    seeds: dict[str, int] = field(default_factory=dict)
    device: str = "cpu"
    num_devices: float = 1
    peak_memory_bytes: int | None = None
    summary: str = ""
    """One-line summary for people."""


@dataclass(frozen=True)
class StageSpec:
    """Specification of a stage to build. Equal `kind`, `settings` and `inputs` denote the same artifact, whatever the
    name."""

    name: str
    """Name of the stage: `corpus`, `target/s2l-0.11`, …"""
    settings: Mapping[str, Any]
    """Exactly the settings that the artifact depends on."""
    inputs: Mapping[str, str]
    """Content fingerprints of the inputs, by name."""
    build: Callable[[Storage], StageResult]
    """Function that builds the artifact in the given folder."""
    folder: str | None = None
    """Folder in the run, up to the key; None: the folder of its kind."""
    kind: str | None = None
    """Kind of artifact, if stages of several names build the same; None: the name."""
    prepare: Callable[[], object] | None = None
    """What may still refuse the settings, once the inputs are read; called before `build`, and an error in it does not
    count as a failure of work that had begun."""

    @cached_property
    def key(self) -> str:
        """Fingerprint of kind, settings and inputs."""
        made_of = {"stage": self.kind or self.name, "settings": dict(self.settings), "inputs": dict(self.inputs)}
        return fingerprint(made_of)

    @property
    def place(self) -> str:
        """The stage's folder, relative to the run's."""
        return f"{self.folder}-{self.key[:8]}" if self.folder else f"{self.kind or self.name}/{self.key[:12]}"


@dataclass
class Stage:
    """A complete stage."""

    name: str
    folder: str
    """Folder of the stage, relative to the run's."""
    storage: Storage
    manifest: StageManifest
    reused: bool = False
    """Whether it was complete before this command."""

    def __post_init__(self) -> None:
        """Check every file read from the stage against its digest."""
        known = ManifestFiles(self.storage.checked(None), self.manifest.digest) if self.manifest.digest else None
        self.storage = self.storage.checked(known)

    @property
    def content(self) -> str:
        """Fingerprint of the result, which is an input of later stages."""
        return self.manifest.content_fingerprint

    @property
    def summary(self) -> str:
        """One-line summary for people, with the stage's current folder."""
        return str(self.manifest.extra.get(SUMMARY, "")).replace(HERE, self.storage.uri)

    @property
    def warnings(self) -> list[str]:
        """Warnings for people, with the stage's current folder."""
        return [warning.replace(HERE, self.storage.uri) for warning in self.manifest.warnings]
