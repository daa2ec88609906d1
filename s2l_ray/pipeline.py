"""The whole way: corpus → tokens → proxy → trajectories → clusters → subsets, each stage only if it is not there yet.

A stage's folder is named for the fingerprint of its settings and inputs: a changed setting makes another folder and
leaves the old one alone (changing back finds it again), and everything downstream follows by content.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.artifacts import Run, Stage, adopt_earlier, load_run
from s2l_ray.cluster.metrics import RayMetrics
from s2l_ray.cluster.placement import Placement
from s2l_ray.config.load import ConfigError, load_config, to_yaml
from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import mark_started
from s2l_ray.preflight import preflight
from s2l_ray.run_folder import (
    EarlierLayout,
    MetricsLog,
    Progress,
    RunLock,
    StageManifest,
    Storage,
    fingerprint,
    list_outputs,
    read_manifest,
    retract,
    verify_outputs,
    write_manifest,
)
from s2l_ray.run_folder.atomic_files import delete_unfinished_files

if TYPE_CHECKING:
    from s2l_ray.target.sharding import Sharding  # imports torch

_FINETUNE_SECTIONS = ("target", "loggers", "resources", "estimates")

_FOR_EVER_S = 30 * 24 * 3600.0

_NOT_OUTPUTS = ("ray_train/",)  # cluster.checkpoints.FOLDER
"""Working state inside a stage's folder, deleted once the stage is complete."""


@dataclass
class Built:
    """What a stage's builder tells about its artifact."""

    content: str
    """Fingerprint of what was made."""
    row_counts: dict[str, int]
    extra: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    seeds: dict[str, int] = field(default_factory=dict)
    device: str = "cpu"
    num_devices: float = 1
    peak_memory_bytes: int | None = None
    said: str = ""
    """One line for people."""


class Pipeline:
    """Runs stages in one run folder, under its lock."""

    def __init__(
        self, run: Run, progress: Progress, metrics: MetricsLog, lock: RunLock | None = None, shared: bool = False
    ) -> None:
        """`shared`: others build stages of this run beside it (trials of a sweep): each stage is locked by itself,
        and which stages belong to the run is for the run's owner to write."""
        self.run, self.progress, self.metrics, self.lock, self.shared = run, progress, metrics, lock, shared
        self.placements: dict[str, Placement] = {}
        """Of the proxy's and the target's workers; empty where no Ray is needed."""
        self.sharding: Sharding | None = None
        """The target's."""
        self.train_callbacks: list[Any] = []
        """Ray Train's, for the target's training."""
        self.started = False
        """A stage was begun, or trials: whatever goes wrong from then on is a failure, no refusal."""

    @property
    def parallelism(self) -> int:
        """About how many one-CPU tasks run at once."""
        return self.placements["proxy"].parallelism

    def stage(
        self,
        name: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        build: Callable[[Storage], Built],
        folder: str | None = None,
        kind: str | None = None,
    ) -> Stage:
        """Build the stage, or skip it because its manifest stands and its files are there; says which.

        Args:
            kind: what is made, where stages of several names make the same.
        """
        key, place = _place(name, settings, inputs, folder, kind)
        found = self._complete(name, key, place, mend=not self.shared)
        if found is not None:
            return self._done(found)
        if not self.shared:
            return self._build(name, key, place, settings, inputs, build, self.lock)
        own = RunLock(self.run.storage.sub("stage_locks", key), wait_s=_FOR_EVER_S, on_wait=self.progress.say)
        with own as lock:  # another trial may have built it meanwhile, or the very same under another name
            place = self._first_place(key, place) if folder and kind else place
            found = self._complete(name, key, place, mend=True)
            return self._done(found) if found else self._build(name, key, place, settings, inputs, build, lock)

    def _first_place(self, key: str, place: str) -> str:
        """Where trials make what has this key: the folder that the first of them chose."""
        note = f"sweep/made/{key}.json"
        if not self.run.storage.exists(note):
            self.run.storage.write_json(note, {"folder": place})
        return str(self.run.storage.read_json(note)["folder"])

    def find(
        self,
        name: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        folder: str | None = None,
        kind: str | None = None,
    ) -> Stage | None:
        """The stage if it is complete; builds nothing."""
        key, place = _place(name, settings, inputs, folder, kind)
        return self._complete(name, key, place, mend=False)

    def _complete(self, name: str, key: str, place: str, mend: bool) -> Stage | None:
        storage = self.run.storage.sub(place)
        try:
            manifest = read_manifest(storage)
        except EarlierLayout as earlier:
            if mend:
                self.progress.say(f"[{name}] {str(earlier).partition('. ')[0]}. Made again.")
            return None
        if manifest is None or manifest.key != key:
            return None
        problems = verify_outputs(storage, manifest.outputs)
        if not problems:
            if mend:
                self._delete_working_state(storage)
            return Stage(name, place, storage, manifest, reused=True)
        if mend:
            more = f" {len(problems) - 1} more of its files are damaged or gone." if len(problems) > 1 else ""
            self.progress.say(f"[{name}] {problems[0].what}{more} Made again.")
            retract(storage, problems)
        return None

    def _build(
        self,
        name: str,
        key: str,
        place: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        build: Callable[[Storage], Built],
        lock: RunLock | None,
    ) -> Stage:
        storage = self.run.storage.sub(place).recording()
        self.started = True
        started, clock = _now(), time.monotonic()
        self.metrics.log(name, "stage_started", folder=place)
        built = build(storage)
        delete_unfinished_files(storage.filesystem, storage.path)
        seconds = time.monotonic() - clock
        manifest = StageManifest(
            stage=name,
            key=key,
            settings=dict(settings),
            inputs=dict(inputs),
            content_fingerprint=built.content,
            row_counts=built.row_counts,
            outputs=list_outputs(storage, leave_out=_NOT_OUTPUTS),
            seeds=built.seeds,
            started_at=started,
            finished_at=_now(),
            wall_seconds=seconds,
            device_seconds=seconds * built.num_devices,
            device=built.device,
            peak_memory_bytes=built.peak_memory_bytes,
            warnings=built.warnings,
            extra={**built.extra, "said": built.said},
        )
        if lock:
            lock.check()
        manifest = write_manifest(storage, manifest)
        self._delete_working_state(storage)
        return self._done(Stage(name, place, storage, manifest))

    def _delete_working_state(self, storage: Storage) -> None:
        for folder in _NOT_OUTPUTS:
            storage.delete_dir(folder.rstrip("/"))

    def _done(self, stage: Stage) -> Stage:
        manifest = stage.manifest
        self.run.stages[stage.name] = stage
        if not self.shared:
            self.run.save_index()
        said = manifest.extra.get("said", "")
        how = "unchanged, skipped" if stage.reused else f"done in {_cost(manifest)}"
        self.progress.say(f"[{stage.name}] {how}: {said}")
        for warning in manifest.warnings:
            self.progress.say(f"[{stage.name}] warning: {warning}")
        self.metrics.log(
            stage.name, "stage_skipped" if stage.reused else "stage_done", folder=stage.folder,
            wall_seconds=manifest.wall_seconds, device_seconds=manifest.device_seconds,
            peak_memory_bytes=manifest.peak_memory_bytes, rows=manifest.row_counts,
        )  # fmt: skip
        return stage


def _cost(manifest: StageManifest) -> str:
    """`26.9 s`; with workers of its own `26.9 s (53.8 worker-seconds, peak memory 0.61 GB a worker)`."""
    cost = f"{manifest.wall_seconds:.1f} s"
    if manifest.peak_memory_bytes is not None:
        peak = manifest.peak_memory_bytes / 1e9
        cost += f" ({manifest.device_seconds:,.1f} worker-seconds, peak memory {peak:.2f} GB a worker)"
    return cost


def _place(
    name: str, settings: Mapping[str, Any], inputs: Mapping[str, str], folder: str | None, kind: str | None
) -> tuple[str, str]:
    """(key, folder in the run) of a stage."""
    kind = kind or name
    key = fingerprint({"stage": kind, "settings": dict(settings), "inputs": dict(inputs)})
    return key, f"{folder}-{key[:8]}" if folder else f"{kind}/{key[:12]}"


def run(
    config: S2LConfig | str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    select_only: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Run everything that the configuration asks for and that is not there yet.

    Args:
        config: a recipe's name, a YAML file, a mapping, or the typed tree.
        overrides: `section.field=value`, as on the command line; not with a typed tree.
        select_only: end with the subsets; a target is left for `finetune`.

    Raises:
        ConfigError, SourceError, PlacementError, RunLockedError, …: with what is wrong and what would do.
    """
    from s2l_ray.cluster.session import ray_session
    from s2l_ray.stages import run_stages

    resolved = config if isinstance(config, S2LConfig) else load_config(config, overrides)
    wanted = resolved.model_copy(update={"target": None}) if select_only else resolved
    preflight(wanted)
    progress = progress or Progress()
    with open_pipeline(Run(resolved, Storage.open(resolved.run_uri)), progress, write_config=True) as pipeline:
        pipeline.run.config = wanted  # what is stored has the target
        before = pipeline.run.read_index()
        with ray_session(resolved.resources):
            run_stages(pipeline)
        adopt_earlier(pipeline.run, before)
        return pipeline.run


def select(
    run: Run | str,
    budget: int | float,
    selector: str = "s2l",
    seed: int | None = None,
    stratify: bool | None = None,
    *,
    progress: Progress | None = None,
) -> Stage:
    """One more subset from the trajectories and clusters of a run; nothing is trained, no Ray is started.

    Args:
        budget: number of examples (int) or share (float in (0, 1]).
        seed, stratify: None takes the run's own.

    Returns:
        The subset's stage; `.storage` holds subset.jsonl, subset.parquet and ids.parquet.
    """
    from s2l_ray.stages import subset_stage

    opened = load_run(run) if isinstance(run, str) else run
    for needed in ("corpus", "tokens", "trajectories", "clusters"):
        opened.stage(needed)
    section = opened.config.selection
    changes: dict[str, Any] = {"budgets": [budget], "selectors": [selector]}
    if seed is not None:
        changes["seed"] = seed
    if stratify is not None:
        changes["stratify"] = stratify
    # Through validation again, so that a wrong budget or selector is refused as in a configuration.
    tree = opened.config.model_dump(mode="json")
    tree["selection"] = {**section.model_dump(mode="json"), **changes}
    checked = load_config(tree)
    with open_pipeline(opened, progress or Progress(), write_config=False) as pipeline:
        return subset_stage(pipeline, checked, selector, checked.selection.budgets[0], inputs=None)


def finetune(
    run: Run | str,
    subset: str | None = None,
    overrides: Sequence[str] = (),
    *,
    budget: int | float | None = None,
    selector: str = "s2l",
    progress: Progress | None = None,
) -> Stage:
    """Fine-tune the target on one subset of a finished selection, or on the full data, and evaluate it.

    Args:
        subset: `full`, or a subset's name (`s2l-0.11`); None: that of `selector` and `budget`, chosen now if need be.
        overrides: `target.model=…`, and whatever else of `target`, `heldout.files`, `loggers`, `resources`,
            `estimates`. What the selection was made from stays as it is.

    Returns:
        The target's stage; `.storage` holds `model/` and `evaluations/`, `.manifest.extra["evaluation"]` the losses.
    """
    from s2l_ray.cluster.session import ray_session
    from s2l_ray.stages import place_stages
    from s2l_ray.stages.selection import subset_stage
    from s2l_ray.stages.target import target_stage

    opened = load_run(run) if isinstance(run, str) else run
    for needed in ("corpus", "trajectories", "clusters"):
        opened.stage(needed)
    for override in overrides:
        section = override.partition("=")[0].split(".")[0].strip()
        if section not in _FINETUNE_SECTIONS and not override.startswith("heldout.files"):
            raise ConfigError(
                f"{override!r}: the selection is finished, so `s2l finetune` changes only "
                f"{', '.join(_FINETUNE_SECTIONS)} and heldout.files; for the rest use `s2l run`"
            )
    tree = opened.config.model_dump(mode="json")
    if tree["target"] is None:
        del tree["target"]
    if budget is not None:
        tree["selection"] |= {"budgets": [budget], "selectors": [selector]}
        tree.get("target", {}).pop("subsets", None)
    config = load_config(tree, overrides)
    if config.target is None:
        raise ConfigError("there is no target: add target.model=… (a hub id or folder), or a section `target`")
    preflight(config)
    with open_pipeline(opened, progress or Progress(), write_config=False) as pipeline:
        # The target's sections are this command's; the rest of the run stays.
        pipeline.run.config = config
        with ray_session(config.resources):
            place_stages(pipeline, config)
            if subset is None:
                size = config.selection.budgets[0]
                subset_stage(pipeline, config, config.selection.selectors[0], size, inputs=None)
                subset = next(iter(config.subset_budgets()))
            return target_stage(pipeline, config, subset)


@contextlib.contextmanager
def open_pipeline(run: Run, progress: Progress, write_config: bool) -> Iterator[Pipeline]:
    """The run's only writer, for the block."""
    storage = run.storage
    # A node that is gone may have left its lock: wait until it is stale. A process here is known to live or not; one
    # that lives may be a job that is just being stopped.
    lock = RunLock(storage, wait_s=75, wait_for_living_s=5, on_wait=progress.say)
    with lock, MetricsLog(storage, listener=RayMetrics(run.config.name)) as metrics:
        if storage.is_local:
            delete_unfinished_files(storage.filesystem, storage.path, shared=("locks",))
        if write_config:
            storage.write_bytes("config.yaml", to_yaml(run.config).encode())
        pipeline = Pipeline(run, progress, metrics, lock)
        try:
            yield pipeline
        except BaseException as error:
            if pipeline.started:
                mark_started(error)
            raise


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
