"""Signals that take a pass of their own: embeddings and the loss without the prompt, of one snapshot, for selectors
that ask for them. A column each, so that a selector that is added later has only what is missing computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from s2l_ray.artifacts.models import ProxyArtifact, SignalsArtifact
from s2l_ray.artifacts.run import RunError, part_rows
from s2l_ray.artifacts.snapshots import weights_folder
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.config.schema import S2LConfig
from s2l_ray.lm.identity import pinned
from s2l_ray.selection.signals import EMBEDDINGS, PASSES, signal_name, snapshot_index
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.tokenizer import open_tokenizer
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage


def passes_of(config: S2LConfig, selectors: Iterable[str]) -> list[str]:
    """The needs of these selectors that take a pass."""
    needs = {need for name in selectors for need in config.selection.needs_of(name)}
    return sorted(need for need in needs if need.partition("@")[0] in PASSES)


def signals_spec(context: RunContext, need: str, tokens: Stage, proxy: Stage) -> StageSpec:
    """A snapshot's weights and the tokens → one column.

    Args:
        need: `embedding@late`.

    Raises:
        RunError: that snapshot, or its weights, were not kept.
    """
    config = context.config
    column, _, snapshot = need.partition("@")
    steps = [one["step"] for one in ProxyArtifact.of(proxy).snapshots]
    index = snapshot_index(snapshot, len(steps), steps, config.selection.reference.early_share)
    if index is None:
        raise RunError(f"{need} is of the untrained proxy, which was not scored; set trajectories.include_step_zero")
    step, dim = steps[index], config.selection.reference.embedding_dim if column in EMBEDDINGS else None
    files = _weights(proxy, steps, index)
    seed = config.seed_of("proxy")

    def build(out: Storage) -> StageResult:
        return _build(context, column, step, dim, tokens, proxy, files, seed, out)

    precision = context.layout.precision_of(config.proxy)
    settings = {"column": column, "step": step, "dim": dim, "tokens_per_batch": config.trajectories.tokens_per_batch}
    settings["precision"] = precision
    inputs = {"tokens": tokens.content, "proxy": proxy.content}
    return StageSpec(f"signals/{signal_name(column, step, dim)}", settings, inputs, build, kind="signals")


def _weights(proxy: Stage, steps: Sequence[int], index: int) -> tuple[str, ...]:
    """Files of the weights; of step 0 none, they are made anew."""
    if steps[index] == 0:
        return ()
    folder = "model/" if index == len(steps) - 1 else weights_folder(index)
    files = tuple(o.name for o in proxy.manifest.outputs if o.name.startswith(folder))
    if not files:
        raise RunError(
            f"the proxy's weights after step {steps[index]} were not kept, since no selector asked for them when it "
            f"was trained; take selection.reference.snapshot=late, or have the proxy trained anew: delete "
            f"{proxy.storage.uri}"
        )
    return files


def _build(
    context: RunContext, column: str, step: int, dim: int | None, tokens: Stage, proxy: Stage,
    files: tuple[str, ...], seed: int, out: Storage,
) -> StageResult:  # fmt: skip
    from s2l_ray.execution.training import run_on_workers
    from s2l_ray.stages.signals.loop import SignalsJob, run_pass

    config, say = context.config, context.progress.say
    placement = context.layout.placements["proxy"]
    rows = part_rows(tokens)
    proxy_config = pinned(config.proxy).model_copy(update={"precision": context.layout.precision_of(config.proxy)})
    job = SignalsJob(
        column, proxy_config, config.trajectories.tokens_per_batch, tuple(rows), seed, open_tokenizer(tokens),
        proxy.storage, files, dim, tokens.storage.sub("parts"), out.sub("parts"), placement.threads,
    )  # fmt: skip
    say(f"[signals] {column} of all examples after step {step:,}, on {placement.describe()}")
    context.layout.wait_for_capacity("proxy", say)
    with context.progress.stage("signals", sum(n for _, n in rows), "examples") as bar:
        summary = run_on_workers(
            run_pass, job, out, placement, what=f"signals ({column})", max_failures=config.resources.max_failures,
            wait_s=config.resources.capacity_wait_s,
            on_event=lambda event: bar.update(advance=event.get("examples", 0)),
        )  # fmt: skip
    out.note_written(summary["written"])
    parts = summary["parts"]
    num = sum(count for _, count, _ in parts)
    artifact = SignalsArtifact(parts=[(part, count) for part, count, _ in parts], column=column, step=step)
    return StageResult(
        fingerprint([digest for _, _, digest in parts]), {"examples": num}, artifact, seeds={"proxy": seed},
        device=summary["device"], num_devices=placement.num_workers, peak_memory_bytes=summary["peak_memory_bytes"],
        summary=f"{column} of {num:,} examples after step {step:,}",
    )  # fmt: skip
