"""A run as an object: its configuration, the manifests of its stages, and access to their files."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import yaml

from s2l_ray.artifacts.chain import READS, find_chain, is_complete, is_configured, note_chain
from s2l_ray.artifacts.found import Found, Skipped
from s2l_ray.artifacts.index import EVALUATION, Recipe, find_index
from s2l_ray.artifacts.models import TrajectoriesArtifact
from s2l_ray.artifacts.results import Evaluation, Subset, Target
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.load import ConfigError, load_config, to_yaml
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.stored import state_of, with_digest
from s2l_ray.config.subset_names import canonical
from s2l_ray.errors import UserError, listed
from s2l_ray.storage.folder import Storage

STAGES = tuple(READS)
"""Stages from which every subset is made."""

CONFIG = "config.yaml"
UNFINISHED = "config.unfinished.yaml"
"""File with the configuration of a command whose selection is not complete yet, besides that of the complete one."""

logger = logging.getLogger(__name__)


class RunError(UserError):
    """Error for a folder without a run, or without the stage that is needed."""


@dataclass
class Run:
    """A run: its configuration, its folder, and the stages that belong to its current configuration."""

    config: S2LConfig
    storage: Storage
    stages: dict[str, Stage] = field(default_factory=dict)
    others: list[Stage] = field(default_factory=list)
    """Subsets and targets from the same clusters that share a name with a preferred one (made with another seed,
    another model, …), each under the name of its folder: `subset/s2l-0.11-1a2b3c4d`."""
    _recipes: dict[str, Recipe] = field(default_factory=dict, repr=False)
    """Recipes of targets, by their folders."""
    _skipped: list[str] = field(default_factory=list, repr=False)
    """Why artifacts in the folder cannot be used."""
    _begun: S2LConfig | None = field(default=None, repr=False)
    """Configuration that `begin` has stored."""

    @property
    def uri(self) -> str:
        """URI of the run's folder."""
        return self.storage.uri

    @property
    def subsets(self) -> dict[str, Stage]:
        """Subset stages by name (`s2l-0.11`)."""
        return {name.removeprefix("subset/"): s for name, s in self.stages.items() if name.startswith("subset/")}

    @property
    def targets(self) -> dict[str, Stage]:
        """Target stages by what they were trained on (`s2l-0.11`, `full`)."""
        return {name.removeprefix("target/"): s for name, s in self.stages.items() if name.startswith("target/")}

    @property
    def evaluations(self) -> dict[tuple[str, str], Evaluation]:
        """Evaluations by model (`s2l-0.11`, `full`, `base`, `model-…`) and task."""
        found = [Evaluation.of(s) for name, s in self.stages.items() if name.startswith("evaluation/")]
        return {(one.model, one.task): one for one in found}

    def target(self, name: str) -> Target:
        """Return a target by what it was trained on. Raises RunError, listing the existing ones, if there is none."""
        name = canonical(name)
        if name not in self.targets:
            known = ", ".join(self.targets) or "none"
            raise self._lacks(f"{self.uri} has no target {name!r} (available: {known})", "make it with `s2l finetune`")
        return Target.evaluated(self.targets[name], self.heldout_evaluation(self.targets[name]))

    def heldout_evaluation(self, target: Stage) -> Stage | None:
        """Return the target's evaluation on the held-out sets; None if it has none."""
        known = [*self.stages.values(), *self.others]
        made = [s for s in known if s.name.startswith(f"{EVALUATION}/")]
        return next((s for s in made if s.manifest.inputs.get("target") == target.content), None)

    def seeds_of(self, name: str) -> dict[int, Stage]:
        """Targets by training seed: the run's own of this name, then those that differ from it only in the seeds of
        training and of the subset's selection."""
        own = self.targets[name]
        found = {_seed(own): own}
        for other in sorted(self.others, key=_seed):
            if _is_alike(self._recipes.get(own.folder), self._recipes.get(other.folder)):
                found.setdefault(_seed(other), other)
        return found

    def subset(self, name: str) -> Subset:
        """Return a subset by its name or its folder's. Raises RunError, listing the existing ones, if there is none."""
        if not self.has_subset(name):
            known = ", ".join(self.subsets) or "none"
            raise self._lacks(f"{self.uri} has no subset {name!r} (available: {known})", "make it with `s2l select`")
        return Subset.of(self._subsets_by_every_name()[canonical(name)])

    def has_subset(self, name: str) -> bool:
        """Whether the run has a subset with this name, or in a folder with this name."""
        return canonical(name) in self._subsets_by_every_name()

    def _subsets_by_every_name(self) -> dict[str, Stage]:
        others = {s.name.removeprefix("subset/"): s for s in self.others if s.name.startswith("subset/")}
        folders = {s.folder.removeprefix("subset/"): s for s in self.subsets.values()}
        return self.subsets | others | folders

    def stage(self, name: str) -> Stage:
        """Return a complete stage by name. Raises RunError if it is not complete."""
        if name not in self.stages:
            raise self._lacks(
                f"{self.uri} has no complete {name} stage, which is needed here", "run `s2l run` on its configuration"
            )
        return self.stages[name]

    def _lacks(self, what: str, cure: str) -> RunError:
        """An error about what is not there; if something in the folder is damaged, that is likely the reason."""
        if not self._skipped:
            return RunError(f"{what}; {cure}")
        damaged = " ".join(reason.rstrip(".") + "." for reason in listed(self._skipped, 3))
        return RunError(f"{what}, and not everything in that folder can be used: {damaged} Then {cure}")

    def trajectories(self) -> Any:
        """Load the trajectories: ids (N, 2) uint64, losses (N, T) float32 in nats per token, sources; see
        data.trajectories.Trajectories."""
        from s2l_ray.data.trajectories import load_trajectories

        stage = self.stage("trajectories")
        return load_trajectories(stage.storage, part_rows(stage), TrajectoriesArtifact.of(stage).num_snapshots)

    def find_stages(self) -> None:
        """Find the stages that belong to the configuration through the folder's manifests; see `find_index`."""
        warnings: list[str] = []
        self._take(find_chain(self.storage, self.config, warnings), warnings)

    def find_others_work(self) -> None:
        """Add the subsets and targets that other commands made from the stages that this command has now."""
        made = self.stages
        self._take({n: Found(made[n].folder, made[n].manifest) for n in STAGES if n in made}, [])
        folders = {stage.folder: stage for stage in made.values()}
        for name, stage in made.items():  # this command's own stages take precedence over others with their name
            before = self.stages.get(name)
            if before is not None and before.folder not in folders:
                self.others.append(_under_its_folders_name(before))
            self.stages[name] = stage
        self.others = [s for s in self.others if s.folder not in folders]

    def _take(self, chain: dict[str, Found], warnings: list[str]) -> None:
        index = find_index(self.storage, self.config, chain, warnings)
        self.stages = {name: self._stage(name, found) for name, found in index.stages.items()}
        self._recipes = index.recipes
        self.others = [_under_its_folders_name(self._stage(f.manifest.stage, f)) for f in index.others]
        self._skipped = [one.reason for one in dict.fromkeys(warnings) if isinstance(one, Skipped)]
        for warning in dict.fromkeys(warnings):
            logger.warning("%s", warning)

    def _stage(self, name: str, found: Found) -> Stage:
        return Stage(name, found.folder, self.storage.sub(found.folder), found.manifest, reused=True)

    def begin(self, config: S2LConfig) -> None:
        """Store the configuration, separately from that of a complete selection until this one's is complete.

        A command that fails or is interrupted therefore changes nothing for readers of the run. The caller holds the
        run's lock.
        """
        name = UNFINISHED if self._holds_another_selection(to_yaml(config)) else CONFIG
        self.storage.write_bytes(name, with_digest(to_yaml(config)))
        self._begun = config

    def _holds_another_selection(self, new: str) -> bool:
        """Whether the stored configuration differs from the new one, and its selection is complete."""
        try:
            stored = read_config(self.storage)
        except RunError:
            return False
        chain = find_chain(self.storage, stored, [])
        return to_yaml(stored) != new and is_complete(chain) and is_configured(chain, stored)

    def commit(self) -> None:
        """Make the configuration from `begin` that of the run when its selection is complete; needs the run's lock."""
        assert self._begun is not None
        self.note_chain()
        self.storage.write_bytes(CONFIG, with_digest(to_yaml(self._begun)))
        self.storage.delete(UNFINISHED)

    def note_chain(self) -> None:
        """Note from which stages the subsets are made, if that is not noted yet; needs the run's lock."""
        note_chain(self.storage, {name: self.stage(name).folder for name in STAGES})


def _seed(stage: Stage) -> int:
    return int(stage.manifest.settings.get("seed") or 0)


def _is_alike(one: Recipe | None, other: Recipe | None) -> bool:
    """Whether targets differ only in seeds: both trained on everything, or on subsets chosen in the same way."""
    if one is None or other is None or one[0] != other[0]:
        return False
    return one[1] == other[1] or bool(one[1] & other[1])


def _under_its_folders_name(stage: Stage) -> Stage:
    return Stage(stage.folder, stage.folder, stage.storage, stage.manifest, stage.reused)


def part_rows(stage: Stage) -> list[tuple[int, int]]:
    """Return (part, rows) of a stage that is stored in parts."""
    return [(int(part), int(rows)) for part, rows in stage.manifest.extra["parts"]]


def load_run(where: str | Storage) -> Run:
    """Open a run folder, local or s3://, gs://; another process may be writing it.

    Raises:
        RunError: there is no run in it.
    """
    storage = where if isinstance(where, Storage) else Storage.open(where)
    run = Run(read_config(storage), storage)
    run.find_stages()
    return run


def read_config(storage: Storage, unfinished: bool = False) -> S2LConfig:
    """Read the configuration stored in a run's folder.

    Args:
        unfinished: whether to prefer that of a command that has not finished its selection.

    Raises:
        RunError: there is none, or it cannot be used.
    """
    name = UNFINISHED if unfinished and storage.exists(UNFINISHED) else CONFIG
    try:
        content = storage.read_bytes(name)
    except FileNotFoundError:
        raise RunError(
            f"{storage.uri} holds no run (no {CONFIG} in it); check the path, or start with `s2l run`"
        ) from None
    rewritten = f"`s2l run` with this run's configuration (run_dir={storage.uri}) rewrites it; complete stages are kept"
    if state_of(content) == "changed":
        raise RunError(
            f"{storage.uri_of(name)} was changed after s2l wrote it (its digest does not fit its settings): it is "
            f"damaged, or was edited, and what it says now may not be what the run was made with. {rewritten}. If you "
            "edited it, `s2l run` on a copy makes a run of the edited settings; without its first line, the file is "
            "used as it is"
        )
    try:
        tree = yaml.safe_load(content)
        if not isinstance(tree, dict):
            what = "is empty" if tree is None else f"holds {type(tree).__name__}, not a mapping of sections"
            raise ConfigError(f"it {what}")
        return load_config(tree)
    except (yaml.YAMLError, ConfigError, RecursionError, UnicodeDecodeError) as error:
        raise RunError(f"{storage.uri_of(name)} cannot be used: {error}\n{rewritten}") from None
