"""A stage: what it is made of (`StageSpec`), what its builder gives (`StageResult`), and the complete one (`Stage`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from s2l_ray.artifacts.manifest import ManifestFiles, StageManifest
from s2l_ray.artifacts.models import Artifact
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage


@dataclass
class StageResult:
    """What a stage's builder says of what it made."""

    content: str
    """Fingerprint of what was made."""
    row_counts: dict[str, int]
    artifact: Artifact
    warnings: list[str] = field(default_factory=list)
    seeds: dict[str, int] = field(default_factory=dict)
    device: str = "cpu"
    num_devices: float = 1
    peak_memory_bytes: int | None = None
    summary: str = ""
    """One line for people."""


@dataclass(frozen=True)
class StageSpec:
    """A stage that is wanted. Equal `kind`, `settings` and `inputs` are the same artifact, whatever the name."""

    name: str
    """`corpus`, `target/s2l-0.11`, …"""
    settings: Mapping[str, Any]
    """What of the configuration the artifact depends on, and nothing else."""
    inputs: Mapping[str, str]
    """What is read: name → content fingerprint."""
    build: Callable[[Storage], StageResult]
    """Makes it in the folder that it is given."""
    folder: str | None = None
    """Where in the run, up to the key; None: in the folder of its kind."""
    kind: str | None = None
    """What is made, where stages of several names make the same; None: the name."""

    @cached_property
    def key(self) -> str:
        """Fingerprint of what it is made from."""
        made_of = {"stage": self.kind or self.name, "settings": dict(self.settings), "inputs": dict(self.inputs)}
        return fingerprint(made_of)

    @property
    def place(self) -> str:
        """Its folder, relative to the run's."""
        return f"{self.folder}-{self.key[:8]}" if self.folder else f"{self.kind or self.name}/{self.key[:12]}"


@dataclass
class Stage:
    """One complete stage."""

    name: str
    folder: str
    """Relative to the run's folder."""
    storage: Storage
    manifest: StageManifest
    reused: bool = False
    """True if it was complete before this command."""

    def __post_init__(self) -> None:
        """Whoever reads the stage's files reads what was written, or an error."""
        known = ManifestFiles(self.storage.checked(None), self.manifest.digest) if self.manifest.digest else None
        self.storage = self.storage.checked(known)

    @property
    def content(self) -> str:
        """Fingerprint of what was made: later stages take it as their input."""
        return self.manifest.content_fingerprint
