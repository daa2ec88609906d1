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

from s2l_ray.artifacts import STAGES, Run, Stage, read_config
from s2l_ray.cluster.metrics import RayMetrics
from s2l_ray.cluster.placement import Placement
from s2l_ray.config.load import ConfigError, load_config
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
_WAIT_FOR_OTHERS_S = 600.0
"""How long `select` and `finetune` wait for those that write the run: several are started at once, and take seconds."""

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
        """`shared`: others build stages of this run beside it (trials of a sweep): each stage is locked by itself."""
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
        try:
            noted = self.run.storage.read_json(note)["folder"]
            if isinstance(noted, str) and noted.startswith("target/") and noted.endswith(f"-{key[:8]}"):
                return noted
        except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
            pass  # not made before, or the note is damaged: this one is the first
        self.run.storage.write_json(note, {"folder": place})
        return place

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
        overrides: `section.field=value`, as on the command line.
        select_only: end with the subsets; a target is left for `finetune`.

    Raises:
        ConfigError, SourceError, PlacementError, RunLockedError, …: with what is wrong and what would do.
    """
    from s2l_ray.cluster.session import ray_session
    from s2l_ray.stages import run_stages
    from s2l_ray.stages.corpus import check_corpus_files

    if isinstance(config, S2LConfig):
        resolved = load_config(config.model_dump(mode="json"), overrides) if overrides else config
    else:
        resolved = load_config(config, overrides)
    wanted = resolved.model_copy(update={"target": None}) if select_only else resolved
    preflight(wanted)
    check_corpus_files(wanted)
    opened = Run(wanted, Storage.open(resolved.run_uri))
    with open_pipeline(opened, progress or Progress()) as pipeline:
        opened.begin(resolved)  # what is stored has the target
        with ray_session(resolved.resources):
            run_stages(pipeline)
        opened.find_others_work()
    return opened


def select(
    run: Run | str,
    budget: int | float,
    selector: str = "s2l",
    seed: int | None = None,
    stratify: bool | str | None = None,
    *,
    progress: Progress | None = None,
) -> Stage:
    """One more subset from the trajectories and clusters of a run; nothing is trained, no Ray is started.

    Args:
        budget: number of examples (int) or share (float in (0, 1]).
        seed, stratify: None takes the run's own. `stratify` may name a facet of the corpus.

    Returns:
        The subset's stage; `.storage` holds subset.jsonl, subset.parquet and ids.parquet.
    """
    from s2l_ray.stages import subset_stage

    opened = _open(run)
    _selecting(opened.config, budget, selector, seed, stratify)  # refused before the lock is waited for
    with open_pipeline(opened, progress or Progress(), _WAIT_FOR_OTHERS_S) as pipeline:
        _find_selection(opened, reread=isinstance(run, str))
        config = _selecting(opened.config, budget, selector, seed, stratify)
        before = dict(opened.stages)
        stage = subset_stage(pipeline, config, selector, config.selection.budgets[0], inputs=None)
        if stage.name in before and before[stage.name].folder != stage.folder:
            opened.find_stages()  # of two of that name, one is the run's
    return stage


def finetune(
    run: Run | str,
    subset: str | None = None,
    overrides: Sequence[str] = (),
    *,
    budget: int | float | None = None,
    selector: str | None = None,
    progress: Progress | None = None,
) -> Stage:
    """Fine-tune the target on one subset of a finished selection, or on the full data, and evaluate it.

    Args:
        subset: `full`, or a subset's name (`s2l-0.11`); None: that of `selector` and `budget`, chosen now if need be.
        overrides: `target.model=…`, and whatever else of `target`, `heldout.files`, `loggers`, `resources`,
            `estimates`. What the selection was made from stays as it is.
        budget, selector: None takes the run's first.

    Returns:
        The target's stage; `.storage` holds `model/` and `evaluations/`, `.manifest.extra["evaluation"]` the losses.
    """
    from s2l_ray.cluster.session import ray_session
    from s2l_ray.stages import place_stages
    from s2l_ray.stages.selection import subset_stage
    from s2l_ray.stages.target import FULL, target_stage

    if subset is not None and (budget is not None or selector is not None):
        raise ConfigError(
            f"subset={subset!r} names what to fine-tune on, and budget={budget!r}, selector={selector!r} another; give "
            "the one or the others"
        )
    _refuse_selecting(overrides)
    opened = _open(run)
    preflight(_finetuning(opened.config, overrides, budget, selector))
    with open_pipeline(opened, progress or Progress(), _WAIT_FOR_OTHERS_S) as pipeline:
        _find_selection(opened, reread=isinstance(run, str))
        config = _finetuning(opened.config, overrides, budget, selector)
        if subset not in (None, FULL):
            opened.subset(subset)
        opened.config = config  # the target's sections are this command's; the rest of the run stays
        with ray_session(config.resources):
            place_stages(pipeline, config)
            if subset is None:
                [(subset, size)] = config.subset_budgets().items()
                subset_stage(pipeline, config, config.selection.selectors[0], size, inputs=None)
            return target_stage(pipeline, config, subset)


def _open(run: Run | str) -> Run:
    """Its configuration alone: what belongs to it is found once the lock is held."""
    if isinstance(run, Run):
        return run
    storage = Storage.open(run)
    return Run(read_config(storage), storage)


def _find_selection(opened: Run, reread: bool) -> None:
    """What others have made of the run until now; hold the lock.

    Args:
        reread: take the stored configuration; else the one that the caller has.

    Raises:
        RunError: the selection is not complete.
    """
    if reread:
        opened.config = read_config(opened.storage)
    opened.find_stages()
    for name in STAGES:
        opened.stage(name)
    if reread:
        opened.note_chain()


def _selecting(
    config: S2LConfig,
    budget: int | float,
    selector: str,
    seed: int | None = None,
    stratify: bool | str | None = None,
    overrides: Sequence[str] = (),
) -> S2LConfig:
    """The run's configuration with one subset, validated again, so that a wrong budget is refused as in a file."""
    from s2l_ray.subset.selectors import SELECTORS

    tree = config.model_dump(mode="json")
    if tree["target"] is None:
        del tree["target"]  # so that an override may begin one
    else:
        tree["target"]["subsets"] = []  # they are named after the run's own selection
    if stratify is None and selector in SELECTORS:  # the run's own is for the selectors that take it
        stratify = config.selection.stratify if SELECTORS[selector].takes_stratify else False
    changes = {"budgets": [budget], "selectors": [selector], "seed": seed, "stratify": stratify}
    tree["selection"] |= {name: value for name, value in changes.items() if value is not None}
    return load_config(tree, overrides)


def _finetuning(
    config: S2LConfig, overrides: Sequence[str], budget: int | float | None, selector: str | None
) -> S2LConfig:
    asked = config.selection
    budget = asked.budgets[0] if budget is None else budget
    made = _selecting(config, budget, selector or asked.selectors[0], overrides=overrides)
    if made.target is None:
        raise ConfigError("there is no target: add target.model=… (a hub id or folder), or a section `target`")
    return made


def _refuse_selecting(overrides: Sequence[str]) -> None:
    """Raises ConfigError for overrides that `finetune` would not follow."""
    for override in overrides:
        path = override.partition("=")[0].strip()
        if path.split(".")[0] not in _FINETUNE_SECTIONS and not path.startswith("heldout.files"):
            raise ConfigError(
                f"{override!r}: the selection is finished, so `s2l finetune` changes only "
                f"{', '.join(_FINETUNE_SECTIONS)} and heldout.files; for the rest use `s2l run`"
            )
        if path == "target.subsets":
            raise ConfigError(
                f"{override!r}: `s2l finetune` makes one target, so this would do nothing; say which with --budget and "
                "--subset, or --full, or make several with `s2l run`"
            )


@contextlib.contextmanager
def open_pipeline(run: Run, progress: Progress, wait_for_living_s: float = 5) -> Iterator[Pipeline]:
    """The run's only writer, for the block.

    Args:
        wait_for_living_s: how long to wait for a process on this machine that writes the run (seconds).
    """
    storage = run.storage
    # A node that is gone may have left its lock: wait until it is stale. A process here is known to live or not; one
    # that lives may be a job that is just being stopped.
    lock = RunLock(
        storage, wait_s=max(75, wait_for_living_s), wait_for_living_s=wait_for_living_s, on_wait=progress.say
    )
    with lock, MetricsLog(storage, listener=RayMetrics(run.config.name)) as metrics:
        if storage.is_local:
            delete_unfinished_files(storage.filesystem, storage.path, shared=("locks",))
        pipeline = Pipeline(run, progress, metrics, lock)
        try:
            yield pipeline
        except BaseException as error:
            if pipeline.started:
                mark_started(error)
            raise


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
