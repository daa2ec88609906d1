"""A run as an object: its configuration, its stages' manifests, and the way to their files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from s2l_ray.config.load import load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import UserError
from s2l_ray.run_folder import EarlierLayout, ManifestFiles, StageManifest, Storage, read_manifest

INDEX = "run.json"
STAGES = ("corpus", "tokens", "proxy", "trajectories", "clusters")


class RunError(UserError):
    """The folder holds no run, or not the stage that is needed."""


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


@dataclass
class Run:
    """A run folder. `stages` holds those that belong to its present configuration."""

    config: S2LConfig
    storage: Storage
    stages: dict[str, Stage] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return self.storage.uri

    @property
    def subsets(self) -> dict[str, Stage]:
        """Subset stages by name (`s2l-0.11`)."""
        return {name.removeprefix("subset/"): s for name, s in self.stages.items() if name.startswith("subset/")}

    @property
    def targets(self) -> dict[str, Stage]:
        """Target stages by what they were trained on (`s2l-0.11`, `full`)."""
        return {name.removeprefix("target/"): s for name, s in self.stages.items() if name.startswith("target/")}

    def subset(self, name: str) -> Stage:
        """A subset by name. Raises RunError if it was not chosen yet; says which were."""
        if name not in self.subsets:
            there = ", ".join(self.subsets) or "none"
            raise RunError(f"{self.uri} has no subset {name!r} (there: {there}); make it with `s2l select`")
        return self.subsets[name]

    def stage(self, name: str) -> Stage:
        """Raises RunError if the stage is not complete."""
        if name not in self.stages:
            raise RunError(
                f"{self.uri} has no complete {name} stage, which is needed here; run `s2l run` on its configuration"
            )
        return self.stages[name]

    def trajectories(self) -> Any:
        """ids (N, 2), losses (N, T), sources; see trajectories.matrix.Trajectories."""
        from s2l_ray.trajectories.matrix import load_trajectories

        stage = self.stage("trajectories")
        return load_trajectories(stage.storage, part_rows(stage), stage.manifest.extra["num_snapshots"])

    def read_index(self) -> dict[str, str]:
        """Stage → folder, of the last command."""
        return self.storage.read_json(INDEX)["stages"] if self.storage.exists(INDEX) else {}

    def save_index(self) -> None:
        """Which folders belong to the present configuration. Written after every stage."""
        self.storage.write_json(INDEX, {"stages": {n: s.folder for n, s in self.stages.items()}})


def adopt_earlier(run: Run, index: dict[str, str]) -> None:
    """Take over subsets and targets of earlier commands that were made from the stages that the run has now.

    Args:
        index: stage → folder, as the run's index was before.
    """
    earlier: dict[str, Stage] = {}
    for name, folder in index.items():
        try:
            manifest = None if name in run.stages else read_manifest(run.storage.sub(folder))
        except EarlierLayout:  # made again when it is asked for
            manifest = None
        if manifest is not None:
            earlier[name] = Stage(name, folder, run.storage.sub(folder), manifest, reused=True)
    now = {n: run.stages[n].manifest.content_fingerprint for n in STAGES if n in run.stages}
    # Subsets first: a target belongs to the run if its tokens are those of a subset that does.
    for prefix in ("subset/", "target-tokens/", "heldout", "target/"):
        for name, stage in earlier.items():
            read = stage.manifest.inputs
            if not name.startswith(prefix) or any(read.get(n, now[n]) != now[n] for n in now if n != "tokens"):
                continue
            label = name.removeprefix(prefix)
            subset, tokens = run.subsets.get(label), run.stages.get(f"target-tokens/{label}")
            if prefix == "target-tokens/" and read.get("subset") != (subset and subset.manifest.content_fingerprint):
                continue
            if prefix == "target/" and read["tokens"] != (tokens and tokens.manifest.content_fingerprint):
                continue
            run.stages[name] = stage
    run.save_index()


def part_rows(stage: Stage) -> list[tuple[int, int]]:
    """(part, rows) of a stage that is stored in parts."""
    return [(int(p), int(n)) for p, n in stage.manifest.extra["parts"]]


def load_run(where: str | Storage) -> Run:
    """Open a run folder, local or s3://, gs://.

    Raises:
        RunError: there is no run in it.
    """
    storage = where if isinstance(where, Storage) else Storage.open(where)
    if not storage.exists("config.yaml"):
        raise RunError(f"{storage.uri} holds no run (no config.yaml in it); check the path, or start with `s2l run`")
    config = load_config(yaml.safe_load(storage.read_bytes("config.yaml")))
    run = Run(config, storage)
    for name, folder in run.read_index().items():
        manifest = read_manifest(storage.sub(folder))
        if manifest is not None:
            run.stages[name] = Stage(name, folder, storage.sub(folder), manifest, reused=True)
    return run
