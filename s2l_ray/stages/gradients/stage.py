"""Computes gradients of a sample at some snapshots (on workers), and compares them by clusters and subsets (here).

These are two stages, so that a subset selected later is compared without another pass of the proxy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s2l_ray.artifacts.models import (
    GradientCheckArtifact,
    GradientsArtifact,
    ProxyArtifact,
    SubsetArtifact,
    TokensArtifact,
)
from s2l_ray.artifacts.points import middle_point
from s2l_ray.artifacts.run import Run, RunError, part_rows
from s2l_ray.artifacts.snapshots import Snapshot, weights_folder
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.config.gradients import GradientsConfig
from s2l_ray.config.schema import S2LConfig
from s2l_ray.lm.identity import pinned
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.tokenizer import open_tokenizer
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage

if TYPE_CHECKING:
    from s2l_ray.stages.gradients.loop import Weights  # imports torch

MOMENTS = ("start", "middle", "last")
RESULT = "gradients.json"


def settings_of(config: S2LConfig) -> GradientsConfig:
    """The section `gradients`, with defaults if it is missing."""
    return config.gradients or GradientsConfig()


def seed_of(config: S2LConfig) -> int:
    own = settings_of(config).seed
    return config.seed if own is None else own


def weights_of(config: S2LConfig, proxy: Stage) -> tuple[list[Weights], list[str]]:
    """The weights of the snapshots to use, in chronological order, and notes on those left out.

    Raises:
        RunError: weights requested by name do not exist.
    """
    from s2l_ray.stages.gradients.loop import Weights

    asked = settings_of(config).snapshots
    snapshots = [Snapshot(**one) for one in ProxyArtifact.of(proxy).snapshots]
    found, notes = [], []
    for name in MOMENTS if asked is None else (one for one in MOMENTS if one in asked):
        index = {"start": None, "middle": middle_point(snapshots), "last": len(snapshots) - 1}[name]
        if name == "start":
            found.append(Weights(name, 0, ()))
            continue
        missing = "the proxy's losses have no snapshot between the first step and the last"
        if index is not None:
            folder = "model/" if name == "last" else weights_folder(index)
            files = tuple(o.name for o in proxy.manifest.outputs if o.name.startswith(folder))
            if files:
                found.append(Weights(name, snapshots[index].step, files))
                continue
            missing = (
                f"the proxy's weights after step {snapshots[index].step:,} were not kept, since the run had no section "
                f"`gradients` when it was trained; to get them, delete {proxy.folder} in the run's folder "
                "and call `s2l run CONFIG gradients.kind=head`, which retrains the proxy and keeps them"
            )
        if asked is not None:
            raise RunError(f"gradients.snapshots includes {name}, but {missing}; or leave {name} out")
        notes.append(f"{name} is skipped: {missing}")
    return found, notes


def gradients_spec(context: RunContext) -> StageSpec:
    """Specify a stage: tokens, clusters and the proxy's weights → gradients of a sample.

    Raises:
        RunError: requested weights do not exist.
    """
    config, run = context.config, context.run
    tokens, proxy, clusters = (run.stage(name) for name in ("tokens", "proxy", "clusters"))
    asked = settings_of(config)
    snapshots, notes = weights_of(config, proxy)

    def build(out: Storage) -> StageResult:
        return _build(context, snapshots, notes, out)

    settings = {
        "kind": asked.kind, "num_examples": asked.num_examples, "seed": seed_of(config),
        "snapshots": [[one.name, one.step] for one in snapshots],
        "precision": context.layout.precision_of(config.proxy),
    }  # fmt: skip
    inputs = {stage.name: stage.content for stage in (tokens, proxy, clusters)}
    return StageSpec("gradients", settings, inputs, build)


def _build(context: RunContext, snapshots: list[Weights], notes: list[str], out: Storage) -> StageResult:
    from s2l_ray.execution.train import run_training
    from s2l_ray.stages.gradients.check import read_sample
    from s2l_ray.stages.gradients.loop import GradientsJob, run_pass

    config, run, say = context.config, context.run, context.progress.say
    asked, seed = settings_of(config), seed_of(config)
    tokens, proxy, placement = run.stage("tokens"), run.stage("proxy"), context.layout.placements["proxy"]
    ids, _ = read_sample(run.stage("clusters").storage, asked.num_examples, seed)
    proxy_config = pinned(config.proxy).model_copy(update={"precision": context.layout.precision_of(config.proxy)})
    job = GradientsJob(
        asked.kind, tuple(snapshots), ids, seed, proxy_config, config.seed_of("proxy"),
        config.trajectories.tokens_per_batch, tuple(part_rows(tokens)), open_tokenizer(tokens), proxy.storage,
        tokens.storage.sub("parts"), out, placement.threads,
    )  # fmt: skip
    say(f"[gradients] {'; '.join(cost_lines(config, run, snapshots, len(ids)))}; on {placement.describe()}")
    context.layout.wait_for_capacity("proxy", say)
    with context.progress.stage("gradients", len(ids) * len(snapshots), "gradients") as bar:
        summary = run_training(
            run_pass, job, out, placement, what="gradients", max_failures=config.resources.max_failures,
            wait_s=config.resources.capacity_wait_s,
            on_event=lambda event: bar.update(advance=event.get("examples", 0)),
        )  # fmt: skip
    out.note_written(summary["written"])
    artifact = GradientsArtifact(
        kind=asked.kind, snapshots=[(one.name, one.step) for one in snapshots], num_examples=len(ids),
        dim=summary["dim"], num_chunks=job.num_chunks,
    )  # fmt: skip
    return StageResult(
        fingerprint(summary["digests"]), {"examples": len(ids)}, artifact, notes, {"gradients": seed},
        summary["device"], placement.num_workers, summary["peak_memory_bytes"],
        f"of {len(ids):,} examples at {_said(snapshots)}",
    )  # fmt: skip


def _said(snapshots: list[Weights]) -> str:
    """The snapshots in words: `start (step 0), last (step 600)`."""
    return ", ".join(f"{one.name} (step {one.step:,})" for one in snapshots)


def cost_lines(config: S2LConfig, run: Run, snapshots: list[Weights], num_examples: int) -> list[str]:
    """The cost of the gradients, in words: examples, time, disk."""
    from s2l_ray.lm.flops import ModelShape
    from s2l_ray.observability.progress import format_count, format_duration

    counts, shape = TokensArtifact.of(run.stage("tokens")), ProxyArtifact.of(run.stage("proxy")).summary["shape"]
    share = num_examples / counts.num_examples
    one_pass = (counts.num_tokens, counts.num_response_tokens, counts.sum_squared_lengths)
    kind = settings_of(config).kind
    # The embedding takes a forward pass, the gradient another one and, for adapters, a backward pass too.
    passes = 4 if kind == "lora" else 2
    flops = passes * ModelShape(**shape).forward_flops(*(int(share * n) for n in one_pass)) * len(snapshots)
    seconds = flops / (config.estimates.device_tflops * 1e12)
    numbers = 4096 * 4 * num_examples * len(snapshots)
    return [
        f"{num_examples:,} of {counts.num_examples:,} examples at {_said(snapshots)}, by "
        f"{'the head' if kind == 'head' else 'adapters (LoRA)'}",
        f"{format_count(flops)} FLOPs, about {format_duration(seconds)} at {config.estimates.device_tflops:g} TFLOP/s, "
        f"after one reading of the corpus's {format_count(counts.num_tokens)} tokens",
        f"up to {numbers / 1e6:,.0f} MB in the run's folder",
    ]


def check_spec(config: S2LConfig, run: Run) -> StageSpec:
    """Specify a stage: gradients, clusters, sources and all subsets → their comparison."""
    from s2l_ray.stages.gradients.check import CheckSources, SubsetToCheck, check_gradients

    gradients, trajectories, clusters = (run.stage(name) for name in ("gradients", "trajectories", "clusters"))
    made, seed = GradientsArtifact.of(gradients), seed_of(config)
    subsets = {name: SubsetToCheck(stage.storage, *_kind_of(stage)) for name, stage in run.subsets.items()}

    def build(out: Storage) -> StageResult:
        result = check_gradients(
            CheckSources(
                gradients.storage, made.snapshots, made.num_chunks, clusters.storage, trajectories.storage,
                part_rows(trajectories), gradients.manifest.settings["num_examples"],
                gradients.manifest.settings["seed"],
            ),
            subsets, seed,
        )  # fmt: skip
        whole: dict[str, Any] = {"version": 1, "kind": made.kind, **result, "notes": gradients.warnings}
        out.write_json(RESULT, whole)
        artifact = GradientCheckArtifact(
            kind=made.kind, snapshots=made.snapshots, subsets=list(subsets), verdict=whole["verdict"]
        )
        return StageResult(
            fingerprint(whole), {"examples": made.num_examples}, artifact, seeds={"gradients": seed},
            summary=f"{len(subsets)} subsets compared. {whole['verdict'][0]}",
        )  # fmt: skip

    inputs = {stage.name: stage.content for stage in (gradients, trajectories, clusters)}
    inputs |= {stage.name: stage.content for stage in run.subsets.values()}
    return StageSpec("gradient-check", {"seed": seed}, inputs, build)


def _kind_of(subset: Stage) -> tuple[bool, bool]:
    """Whether a subset is a random draw within the clusters, and whether it is a random draw from all examples."""
    made = SubsetArtifact.of(subset)
    plain = made.guard is None and not made.num_ineligible and not subset.manifest.settings.get("stratify")
    return plain and made.selector == "s2l", plain and made.selector == "random"
