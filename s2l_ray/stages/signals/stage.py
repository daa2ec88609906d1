"""Signals that take a pass of their own: embeddings and the loss without the prompt, of one snapshot, for selectors
that ask for them. A column each, so that a selector that is added later has only what is missing computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

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
    wanted = Pass.of(context, need, proxy)

    def build(out: Storage) -> StageResult:
        what = f"{wanted.column} of all examples"
        return run_signals(context, wanted, what, part_rows(tokens), tokens, tokens.storage.sub("parts"), proxy, out)

    inputs = {"tokens": tokens.content, "proxy": proxy.content}
    name = f"signals/{signal_name(wanted.column, wanted.step, wanted.dim)}"
    return StageSpec(name, wanted.settings(context), inputs, build, kind="signals")


@dataclass(frozen=True)
class Pass:
    """One column, with the weights of one snapshot."""

    column: str
    step: int
    dim: int | None
    files: tuple[str, ...]
    """Of the weights, in the folder of the proxy's stage; empty: those that it began with."""

    @staticmethod
    def of(context: RunContext, need: str, proxy: Stage) -> Pass:
        """Raises RunError: that snapshot, or its weights, were not kept."""
        reference = context.config.selection.reference
        column, _, snapshot = need.partition("@")
        steps = [one["step"] for one in ProxyArtifact.of(proxy).snapshots]
        index = snapshot_index(snapshot, len(steps), steps, reference.early_share)
        if index is None:
            raise RunError(
                f"{need} is of the untrained proxy, which was not scored; set trajectories.include_step_zero"
            )
        dim = reference.embedding_dim if column in EMBEDDINGS else None
        return Pass(column, steps[index], dim, _weights(proxy, steps, index))

    def settings(self, context: RunContext) -> dict[str, Any]:
        """What the numbers depend on."""
        config = context.config
        return {
            "column": self.column, "step": self.step, "dim": self.dim,
            "tokens_per_batch": config.trajectories.tokens_per_batch,
            "precision": context.layout.precision_of(config.proxy),
        }  # fmt: skip


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


def run_signals(
    context: RunContext, wanted: Pass, what: str, parts: list[tuple[int, int]], tokens: Stage, folder: Storage,
    proxy: Stage, out: Storage, warnings: Sequence[str] = (),
) -> StageResult:  # fmt: skip
    """The workers' pass over parts of tokens.

    Args:
        what: for people.
        parts: (part, sequences).
        tokens: whose tokenizer.
        folder: of the parts.
    """
    from s2l_ray.execution.training import run_on_workers
    from s2l_ray.stages.signals.loop import SignalsJob, run_pass

    config, say, seed = context.config, context.progress.say, context.config.seed_of("proxy")
    placement = context.layout.placements["proxy"]
    proxy_config = pinned(config.proxy).model_copy(update={"precision": context.layout.precision_of(config.proxy)})
    job = SignalsJob(
        wanted.column, proxy_config, config.trajectories.tokens_per_batch, tuple(parts), seed, open_tokenizer(tokens),
        proxy.storage, wanted.files, wanted.dim, folder, out.sub("parts"), placement.threads,
    )  # fmt: skip
    say(f"[signals] {what} after step {wanted.step:,}, on {placement.describe()}")
    context.layout.wait_for_capacity("proxy", say)
    with context.progress.stage("signals", sum(n for _, n in parts), "examples") as bar:
        summary = run_on_workers(
            run_pass, job, out, placement, what=f"signals ({wanted.column})",
            max_failures=config.resources.max_failures, wait_s=config.resources.capacity_wait_s,
            on_event=lambda event: bar.update(advance=event.get("examples", 0)),
        )  # fmt: skip
    out.note_written(summary["written"])
    made = summary["parts"]
    num = sum(count for _, count, _ in made)
    artifact = SignalsArtifact(
        parts=[(part, count) for part, count, _ in made], column=wanted.column, step=wanted.step
    )  # fmt: skip
    return StageResult(
        fingerprint([digest for _, _, digest in made]), {"examples": num}, artifact, list(warnings), {"proxy": seed},
        summary["device"], placement.num_workers, summary["peak_memory_bytes"],
        f"{what.replace('all', f'{num:,}')} after step {wanted.step:,}",
    )  # fmt: skip
