"""The typed tree, with a docstring and unit for every field; contradictions are refused here, before Ray starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from s2l_ray.config.corpus import CorpusConfig
from s2l_ray.config.evaluation import EvaluationConfig
from s2l_ray.config.gradients import GradientsConfig
from s2l_ray.config.heldout import QUICKSTART_SET, HeldOutConfig
from s2l_ray.config.loggers import LoggersConfig
from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.config.proxy import ProxyConfig
from s2l_ray.config.section import OptionalLocation, Section, bounded
from s2l_ray.config.selection import PASSES, QUERY, SCALARS, SOURCES, SelectionConfig, at_reference
from s2l_ray.config.sweep import SweepConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.config.trajectories import TrajectoriesConfig
from s2l_ray.errors import shown

_MAX_NAME_BYTES = 200


class ClustersConfig(Section):
    num_clusters: int = bounded(100, 1_000_000, "the centroids are held in one actor's memory", ge=1)
    """K of k-means; lowered with a warning if there are fewer distinct trajectories."""
    init: Literal["kmeans++", "random"] = "kmeans++"
    """How the initial centroids are chosen: `random` is the paper's method, k-means++ resolves rare trajectories
    better."""
    num_iterations: int = bounded(20, 10_000, "k-means converges long before that", ge=1)
    """Number of Lloyd iterations."""
    max_train_points: int = bounded(1_000_000, 10**10, "the points are held in one actor's memory", ge=1)
    """Centroids are trained on a seeded sample of at most this many trajectories; all are then assigned by
    streaming."""
    num_snapshots: int | None = bounded(None, 1000, "no run records that many", ge=1)
    """Number of recorded snapshots to cluster by; None: all."""
    snapshots: Literal["even", "first"] = "even"
    """Which snapshots: evenly spaced, including the first and the last (if only one: the last), or the first ones (as
    if training had stopped early)."""
    seed: int | None = bounded(None, 2**32 - 1, "the largest seed that all libraries accept, 32 bits", ge=0)
    """Seed of this section; None: the run's seed."""


class WorkersConfig(Section):
    workers: int | None = bounded(None, 100_000, "no cluster has that many workers", ge=1)
    """Number of Ray Train workers; None: one per available GPU (of the nodes that are up, otherwise of one node that
    the autoscaler adds), or one on CPUs."""
    min_workers: int | None = bounded(None, 100_000, "no cluster has that many workers", ge=1)
    """Elastic training, for spot nodes: continue with as few workers as this and grow back to `workers` when nodes
    return; None: fixed size. The result does not depend on it, up to rounding."""
    cpus_per_worker: float | None = bounded(None, 10_000, "no node has that many CPUs", ge=0.0001)
    """Logical CPUs reserved by each worker; None: 1 with a GPU (less if a node has too few for its GPUs), the node's
    share on CPUs."""
    gpus_per_worker: float = bounded(1, 1000, "no node has that many GPUs", ge=0.0001)
    """GPUs reserved by each worker when device is gpu: a whole number, or a fraction of one."""
    accelerator_type: str | None = None
    """Ray accelerator type required by workers (`A100`, `H100`, …)."""
    custom_resources: dict[str, float] = Field(default={})
    """Other Ray resources reserved by each worker, to pin it to nodes that offer them; `memory` is in bytes."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_gpus(cls, gpus: float) -> float:
        if gpus > 1 and gpus % 1:
            raise ValueError(
                f"gpus_per_worker={gpus:g}: Ray assigns a fraction of one GPU or whole GPUs; use {int(gpus)}"
            )
        return gpus

    @field_validator("custom_resources")
    @classmethod
    def _amounts(cls, resources: dict[str, float]) -> dict[str, float]:
        own = {"CPU": "cpus_per_worker", "GPU": "gpus_per_worker", "object_store_memory": None}
        most = {"memory": 10**15}
        for name, amount in resources.items():
            if not name.strip() or name in own:
                cure = f"; set {own[name]}" if own.get(name) else ""
                raise ValueError(f"{name!r} is not a valid name for a custom resource{cure}")
            if not 0 < amount <= most.get(name, 10**9):
                at_most = f"{most.get(name, 10**9):.0e}"
                raise ValueError(f"{amount:g} of {name!r} cannot be reserved; give a number above 0, at most {at_most}")
        return resources

    def contradictions(self) -> Iterator[str]:
        if self.min_workers is not None and (self.workers is None or self.min_workers > self.workers):
            yield (f"min_workers={self.min_workers} needs workers to be at least as many, got workers={self.workers}")


class ResourcesConfig(Section):
    ray_address: OptionalLocation = None
    """Ray cluster to connect to; None: $RAY_ADDRESS, or the job's own cluster, or a new local Ray."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: GPUs if the cluster has or can add one and its torch can use it, otherwise CPUs; k-means likewise,
    depending on its faiss. `gpu`: fail instead of falling back to CPUs."""
    proxy: WorkersConfig = WorkersConfig()
    """Workers that train and score the proxy."""
    target: WorkersConfig = WorkersConfig()
    """Workers that fine-tune the target."""
    evaluation: WorkersConfig = WorkersConfig()
    """Workers that answer test questions; each holds a whole model."""
    max_failures: int = bounded(3, 1_000_000, "use -1 for no limit", ge=-1)
    """How many times lost workers are replaced before the run stops (it can then be resumed); -1: unlimited."""
    may_grow: bool = False
    """The cluster's autoscaler can add nodes: wait for missing resources instead of refusing the run."""
    capacity_wait_s: float = bounded(86_400, 365 * 24 * 3600, "one year", gt=0)
    """How long a stage waits for resources in use by others, or for nodes from the autoscaler, before the run stops (it
    can then be resumed; seconds)."""
    parallel_tasks: int | None = bounded(None, 1_000_000, "no cluster has that many CPUs", ge=1)
    """How many one-CPU tasks (reading, tokenising) may run at once; None: the cluster's CPUs, and with `may_grow` at
    least 64, so that the autoscaler sees the demand."""
    gpu_wait_s: float = bounded(300, 30 * 24 * 3600, "30 days", ge=0)
    """With `device: auto` and `may_grow`, if there is no GPU yet: how long to wait for one before using CPUs
    (seconds)."""


class EstimatesConfig(Section):
    num_examples: int | None = bounded(None, 10**12, "no corpus has that many rows", ge=1)
    """Rows of the corpus, for `--dry-run` if they cannot be counted before download."""
    tokens_per_example: float | None = bounded(None, 10**9, "no example is that long", gt=0)
    """Mean length (tokens), for `--dry-run` if it cannot be measured before download."""
    num_parameters: int | None = bounded(None, 10**15, "no model is that large", ge=1)
    """Parameters of the proxy, for `--dry-run` if its config cannot be loaded."""
    device_tflops: float = bounded(0.1, 10**6, "no device is that fast", gt=0)
    """Sustained speed assumed for the time estimate (TFLOP/s per worker): about 0.1 for two CPU cores, 150 for an
    A100. If it has its default value and the run would train small models on this machine's CPUs, their speed is
    measured."""
    price_per_worker_hour: float | None = bounded(None, 10**9, "no device costs that much", gt=0)
    """Price of one worker's device per hour, in your currency; None: costs are not estimated."""
    worker_memory_gb: float | None = bounded(None, 10**6, "no device has that much memory", gt=0)
    """Device memory of a target worker (GB), for the memory estimate if the nodes are not up yet."""


class S2LConfig(Section):
    """One run."""

    name: str = Field(default="run", max_length=100, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    """Name of the run: letters, digits, dots, dashes and underscores, not beginning with a dot or dash."""
    run_dir: OptionalLocation = None
    """Folder of the run, local or s3://, gs://; None: `runs/<name>`."""
    seed: int = bounded(0, 2**32 - 1, "the largest seed that all libraries accept, 32 bits", ge=0)
    """Seed of every section that does not set its own."""
    corpus: CorpusConfig
    proxy: ProxyConfig
    trajectories: TrajectoriesConfig = TrajectoriesConfig()
    clusters: ClustersConfig = ClustersConfig()
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    gradients: GradientsConfig | None = None
    """None: the run does not compare gradients; `s2l gradients` can do so afterwards."""
    heldout: HeldOutConfig = HeldOutConfig()
    target: TargetConfig | None = None
    """None: the run ends with the subsets."""
    evaluation: EvaluationConfig | None = None
    """None: targets are judged only by their held-out losses."""
    sweep: SweepConfig = SweepConfig()
    loggers: LoggersConfig = LoggersConfig()
    resources: ResourcesConfig = ResourcesConfig()
    estimates: EstimatesConfig = EstimatesConfig()

    @field_validator("run_dir")
    @classmethod
    def _possible(cls, run_dir: str | None) -> str | None:
        if run_dir is not None:
            if not run_dir.strip() or any(c in run_dir for c in "\n\r\t"):
                raise ValueError(f"{run_dir!r} is not a valid folder name; give a path or a URI, or leave it out")
            longest = max(run_dir.split("/"), key=lambda name: len(name.encode()))
            if len(longest.encode()) > _MAX_NAME_BYTES:
                raise ValueError(
                    f"the folder's name {shown(longest)} has {len(longest.encode())} bytes, and file systems allow 255 "
                    f"including the suffixes that are appended; shorten it to {_MAX_NAME_BYTES}"
                )
        return run_dir

    @property
    def run_uri(self) -> str:
        return self.run_dir or f"runs/{self.name}"

    def seed_of(self, section: Literal["proxy", "clusters", "selection", "target"]) -> int:
        own: int | None = getattr(self, section).seed
        return self.seed if own is None else own

    def contradictions(self) -> Iterator[str]:
        yield from self._of_selectors()
        if self.trajectories.tokens_per_batch < self.proxy.max_length:
            yield (
                f"trajectories.tokens_per_batch={self.trajectories.tokens_per_batch} is less than one example of "
                f"proxy.max_length={self.proxy.max_length} tokens; raise the one or lower the other"
            )
        yield from self._of_trajectories()
        used = self.clusters.num_snapshots
        swept = "clusters.num_snapshots" in self.sweep.parameters
        if self.clusters.snapshots == "first" and used is None and not swept:
            yield (
                "clusters.snapshots=first would do nothing: without clusters.num_snapshots all snapshots are used; set "
                "clusters.num_snapshots too, or leave it out"
            )
        if self.corpus.quickstart is not None and QUICKSTART_SET in self.heldout.files:
            yield (
                f"heldout.files.{QUICKSTART_SET} has the name of the quickstart's own held-out set, and one of them "
                "would be lost; give yours another name"
            )
        for model in (self.proxy, self.target):
            if model is not None:
                yield from self._of_model(model)
        if self.target is not None:
            yield from self._of_subsets(self.target.subsets)
            yield from self._of_heldout(self.target)

    def _of_trajectories(self) -> Iterator[str]:
        scored, steps = self.trajectories.num_scored, self.proxy.max_steps
        if steps is not None and steps < scored - self.trajectories.include_step_zero:
            yield (
                f"trajectories.num_snapshots={scored} cannot be spread over proxy.max_steps={steps}; lower the one or "
                "raise the other"
            )
        source = self.trajectories.source
        recorded = 0
        if source != "snapshots":
            if steps is not None:
                return  # how many epochs they are is known with the corpus
            recorded = math.floor(self.proxy.epochs)
            if recorded + scored < 2 or not recorded:
                yield (
                    f"trajectories.source={source} takes one loss from every whole epoch, and "
                    f"proxy.epochs={self.proxy.epochs:g} has {recorded}; train longer, or use source=snapshots"
                )
        used = self.clusters.num_snapshots
        if used is not None and used > recorded + scored:
            what = f"the trajectories.num_snapshots={scored}"
            if recorded:
                what = f"the {recorded} epochs and {scored} snapshots"
            yield (
                f"clusters.num_snapshots={used} asks for more than {what} that are recorded; lower the one or raise "
                "the other"
            )

    def _of_model(self, model: TrainedModelConfig) -> Iterator[str]:
        here = model.section
        if model.render == "alpaca" and self.corpus.format in ("messages", "sharegpt"):
            yield (
                f"{here}.render=alpaca needs one instruction and one response, but corpus.format={self.corpus.format} "
                "holds conversations; use render=plain, chat_template or auto"
            )

    def _of_subsets(self, names: list[str]) -> Iterator[str]:
        known = [*self.subset_budgets(), "full"]
        for name in names:
            if name not in known:
                yield (
                    f"target.subsets: {name!r} is not a subset of this selection, so nothing could be fine-tuned on "
                    f"it; known: {', '.join(known)}"
                )

    def _of_heldout(self, target: TargetConfig) -> Iterator[str]:
        needs = [name for name in ("keep_best", "patience") if getattr(target, name)]
        if needs and not (self.heldout.share or self.heldout.files or self.corpus.quickstart):
            yield (
                f"target.{needs[0]} depends on the held-out loss, but nothing is held out, so it would have no effect; "
                "set heldout.share or heldout.files, or remove it"
            )

    def _of_selectors(self) -> Iterator[str]:
        needs = {name: self.selection.needs_of(name) for name in self.selection.selectors}
        if self.corpus.source_column is None and any(SOURCES in of for of in needs.values()):
            who = ", ".join(name for name, of in needs.items() if SOURCES in of)
            yield (
                f"balancing by source ({who}) needs corpus.source_column, which is not set; name the column, or remove "
                "selection.stratify and random_per_source"
            )
        facets = self.corpus.facets
        for name, who in self.selection.facets_needed().items():
            if facets is not None and name not in facets:
                yield (
                    f"balancing by {shown(name)} ({who}) needs that column as a facet, and corpus.facets has only "
                    f"{shown(facets)}; add it there, or set selection.stratify to true (sources) or to one of them"
                )
        yield from self._of_query()
        if self.selection.reference.model == "target":
            if self.target is None:
                yield (
                    "selection.reference.model=target scores with the target, and there is none; add the section "
                    "target, or use reference.model=proxy"
                )
            needs = {name: of - set(at_reference(of)) for name, of in needs.items()}  # what is left to the proxy
        scored = [name for name, of in needs.items() if any(need.partition("@")[0] in SCALARS for need in of)]
        if scored and self.trajectories.source != "snapshots":
            yield (
                f"the selector {', '.join(scored)} reads scores that trajectories.source={self.trajectories.source} "
                "does not have, since training computes only losses; use source=snapshots"
            )
        passing = [name for name, of in needs.items() if any(need.partition("@")[0] in PASSES for need in of)]
        if passing and self.trajectories.source == "training":
            yield (
                f"the selector {', '.join(passing)} reads embeddings or losses without the prompt, which are computed "
                "with a snapshot's weights, and trajectories.source=training has no snapshot; use hybrid or snapshots"
            )
        started = [name for name, of in needs.items() if any(need.endswith("@start") for need in of)]
        if started and not self.trajectories.include_step_zero:
            yield (
                f"the selector {', '.join(started)} reads scores of the untrained proxy (start), which is not scored; "
                "set trajectories.include_step_zero=true, or use another snapshot"
            )

    def _of_query(self) -> Iterator[str]:
        asking, sweeping = (
            [name for name in names if QUERY in self.selection.needs_of(name)]
            for names in (self.selection.selectors, self.sweep.selectors)
        )
        paths = self.selection.query.paths
        if asking and not paths:
            yield (
                f"the selector {', '.join(asking)} needs examples of your task, but none are given; set "
                "selection.query.paths=[my_task.jsonl] (prompts with responses), or use another selector"
            )
        if paths and not asking and not sweeping:
            yield (
                f"selection.query.paths={paths} would do nothing: no selector uses examples of your task; "
                "add rds_plus to selection.selectors, or leave it out"
            )

    def subset_budgets(self) -> dict[str, int | float]:
        """`<selector>-<budget>` → its budget, for everything that the section `selection` asks for, in its order."""
        asked = self.selection
        return {asked.subset_name(s, b): b for s in asked.selectors for b in asked.budgets}

    def target_subsets(self) -> list[str]:
        """What targets are fine-tuned on."""
        return [] if self.target is None else self.target.subsets or list(self.subset_budgets())[:1]
