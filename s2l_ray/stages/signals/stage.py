"""Signals that take an extra pass with one snapshot, for selectors that need them: embeddings, the loss without the
prompt, and all scores if the reference is the target. Each column is one stage, so that a selector added later computes
only what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from s2l_ray.artifacts.models import SignalsArtifact
from s2l_ray.artifacts.run import RunError, part_rows
from s2l_ray.artifacts.snapshots import target_weights_folder, weights_folder
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.lm.identity import pinned
from s2l_ray.selection.signals import EMBEDDINGS
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.reference import (
    column_of_pass,
    passes_of,
    reference_step,
    reference_steps,
    signal_stage_name,
)
from s2l_ray.stages.tokenizer import open_tokenizer
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage

__all__ = ["Pass", "passes_of", "run_signals", "signals_spec"]


def signals_spec(context: RunContext, need: str, tokens: Stage, reference: Stage) -> StageSpec:
    """Specify a stage: a snapshot's weights and the tokens → one column.

    Args:
        need: `embedding@late`.
        tokens: the corpus's tokens for the reference model.
        reference: the proxy, or the target trained on everything.

    Raises:
        RunError: that snapshot, or its weights, were not kept.
    """
    wanted = Pass.of(context, need, tokens, reference)

    def build(out: Storage) -> StageResult:
        what = f"{wanted.column} of all examples"
        return run_signals(context, wanted, what, part_rows(tokens), tokens.storage.sub("parts"), out)

    name = signal_stage_name(context.config, context.run, need)
    return StageSpec(name, wanted.settings(context), wanted.inputs(context), build, kind="signals")


@dataclass(frozen=True)
class Pass:
    """A pass that computes one column with the weights of one snapshot of the reference."""

    role: Literal["proxy", "target"]
    column: str
    step: int
    dim: int | None
    tokens: Stage
    """The corpus's tokens for the reference."""
    reference: Stage
    folder: str
    """Folder of the weights in the reference's folder; "" for the initial weights."""

    @staticmethod
    def of(context: RunContext, need: str, tokens: Stage, reference: Stage) -> Pass:
        """Determine the pass for a need. Raises RunError if that snapshot or its weights were not kept."""
        config = context.config
        role, column, snapshot = config.selection.reference.model, column_of_pass(config, need), need.partition("@")[2]
        step = reference_step(config, reference, snapshot)
        if step is None:
            raise RunError(
                f"{need} refers to the untrained proxy, which was not scored; set trajectories.include_step_zero"
            )
        dim = config.selection.reference.embedding_dim if column in EMBEDDINGS else None
        folder = _folder(role, reference_steps(config, reference), step)
        if folder and not any(o.name.startswith(f"{folder}/") for o in reference.manifest.outputs):
            raise RunError(
                f"the {role}'s weights after step {step} were not kept, since no selector needed them when it "
                f"was trained; use selection.reference.snapshot=late, or have the {role} retrained: delete "
                f"{reference.storage.uri}"
            )
        return Pass(role, column, step, dim, tokens, reference, folder)

    def model(self, context: RunContext) -> TrainedModelConfig:
        """The reference's section of the configuration."""
        config = context.config
        model = config.proxy if self.role == "proxy" else config.target
        assert model is not None
        return model

    def tokens_per_batch(self, context: RunContext) -> int:
        return max(context.config.trajectories.tokens_per_batch, self.model(context).max_length)

    def settings(self, context: RunContext) -> dict[str, Any]:
        """The settings that the numbers depend on."""
        return {
            "column": self.column, "step": self.step, "dim": self.dim,
            "tokens_per_batch": self.tokens_per_batch(context),
            "precision": context.layout.precision_of(self.model(context)),
        }  # fmt: skip

    def inputs(self, context: RunContext) -> dict[str, str]:
        inputs = {"tokens": self.tokens.content, self.role: self.reference.content}
        return inputs if self.role == "proxy" else {**inputs, "corpus": context.run.stage("corpus").content}


def _folder(role: str, steps: Sequence[int], step: int) -> str:
    """Folder of a snapshot's weights in the stage's folder; "" for step 0, whose weights are rebuilt."""
    if step == 0:
        return ""
    if step == steps[-1]:
        return "model"
    return target_weights_folder(step) if role == "target" else weights_folder(steps.index(step)).rstrip("/")


def run_signals(
    context: RunContext,
    wanted: Pass,
    what: str,
    parts: Sequence[tuple[int, int]],
    folder: Storage,
    out: Storage,
    warnings: Sequence[str] = (),
) -> StageResult:
    """Run a pass on workers over parts of tokens.

    Args:
        what: name of the work, for messages.
        parts: (part, sequences) of each part.
        folder: folder of the parts.
    """
    from s2l_ray.execution.train import run_training
    from s2l_ray.stages.signals.loop import SignalsJob, run_pass

    config, say, model = context.config, context.progress.say, wanted.model(context)
    placement, seed = context.layout.placements[wanted.role], config.seed_of(wanted.role)
    files = tuple(o.name for o in wanted.reference.manifest.outputs if o.name.startswith(f"{wanted.folder}/"))
    job = SignalsJob(
        wanted.column, pinned(model).model_copy(update={"precision": context.layout.precision_of(model)}),
        wanted.tokens_per_batch(context), tuple(parts), seed, open_tokenizer(wanted.tokens), wanted.reference.storage,
        files if wanted.folder else (), wanted.dim, folder, out.sub("parts"), placement.threads,
    )  # fmt: skip
    by = "" if wanted.role == "proxy" else " of the target on everything"
    say(f"[signals] {what} after step {wanted.step:,}{by}, on {placement.describe()}")
    context.layout.wait_for_capacity(wanted.role, say)
    with context.progress.stage("signals", sum(n for _, n in parts), "examples") as bar:
        summary = run_training(
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
        fingerprint([digest for _, _, digest in made]), {"examples": num}, artifact, list(warnings),
        {wanted.role: seed}, summary["device"], placement.num_workers, summary["peak_memory_bytes"],
        f"{what.replace('all', f'{num:,}')} after step {wanted.step:,}{by}",
    )  # fmt: skip
