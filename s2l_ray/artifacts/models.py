"""Typed, versioned models of the stage-specific facts about artifacts, in addition to files and counts.

They are stored in the manifest's field `extra`. A stage registered by a user can define its own model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from s2l_ray.artifacts.manifest import SUMMARY, ManifestError, StageManifest
from s2l_ray.data.formats import detect_format, rendered_as, tells_format


class HasManifest(Protocol):
    """A complete stage."""

    manifest: StageManifest


class Artifact(BaseModel):
    """Base class for facts about a stage's artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    VERSION: ClassVar[int] = 1

    version: int = 1
    """Version of this model's layout."""

    @classmethod
    def of(cls, stage: HasManifest) -> Self:
        """Read the facts from a stage's manifest.

        Raises:
            ManifestError: the manifest is another stage's, or from a newer s2l_ray.
        """
        fields = {name: value for name, value in stage.manifest.extra.items() if name != SUMMARY}
        version, name = fields.get("version", 1), stage.manifest.stage
        if isinstance(version, int) and version > cls.VERSION:
            raise ManifestError(
                f"the {name} stage was written by a newer s2l_ray (layout {version}; this one knows up to "
                f"{cls.VERSION}); upgrade s2l_ray, or start another run folder"
            )
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ManifestError(
                f"the manifest of the {name} stage does not have the contents that this s2l_ray expects "
                f"({'.'.join(map(str, first['loc']))}: {first['msg']}); delete it to have the stage run again"
            ) from error


class InParts(Artifact):
    """An artifact that is stored in parts."""

    parts: list[tuple[int, int]]
    """(part, number of rows), in order; parts without rows are left out."""


class CorpusArtifact(InParts):
    """The examples of a corpus."""

    format: str
    """Format in which the rows were read: `instruction`, `messages`, …"""
    is_chat: bool = False
    """Whether rows are chats, whatever their columns."""
    facets: dict[str, int] = {}
    """Facet columns stored beside the ids, and the number of values of each."""
    heldout: dict[str, Any]
    """`rows`, `fingerprint` and `parts` of the held-out share."""
    columns: list[list[Any]] | None = None
    """Types of the user's columns; see data.columns.Columns."""

    @property
    def rendered_format(self) -> str:
        """Format by which the corpus is rendered; corpora of earlier versions record only their own format."""
        return rendered_as(self.format, self.is_chat)

    @property
    def told_format(self) -> str | None:
        """Format for rendering according to the columns alone; None if they do not identify one."""
        columns = [name for name, *_ in self.columns or []]
        return rendered_as(detect_format(columns), self.is_chat) if tells_format(columns) else None


class TokensArtifact(InParts):
    """Token ids of a corpus, or of a subset."""

    num_examples: int
    num_sequences: int
    """Number of sequences, at least that of examples, because a chat may need one for each response."""
    num_quarantined: int
    num_cut: int = 0
    """Number of examples truncated at `max_length`."""
    num_with_control_tokens: int = 0
    """Number of examples with a control token in their text."""
    num_tokens: int
    num_response_tokens: int
    sum_squared_lengths: int
    """Sum of squared lengths, for attention's FLOPs."""
    max_length: int
    """Length of the longest sequence (tokens)."""
    max_token_id: int | None = None
    """Largest token id; None: not recorded by an earlier version."""
    style: str
    """Style in which conversations were rendered."""


class ProxyArtifact(Artifact):
    """The trained proxy and its snapshots."""

    snapshots: list[dict[str, Any]]
    """Snapshots as plain data; see artifacts.snapshots.Snapshot."""
    flops: dict[str, float]
    """FLOPs of `training` and `scoring`, without restarts."""
    summary: dict[str, Any]
    """Summary that rank 0 reports at the end of training."""


class TrajectoriesArtifact(InParts):
    """The N × T matrix of losses."""

    num_snapshots: int
    signals: str | None = None
    """Fingerprint of the signals scored in addition to the losses; None: an earlier version, which has none."""


class SignalsArtifact(InParts):
    """One more column of the scores, at one snapshot."""

    column: str
    step: int
    """Optimiser steps after which the snapshot was taken."""


class GradientsArtifact(Artifact):
    """Gradients of sampled examples at some snapshots."""

    kind: str
    """`head` or `lora`."""
    snapshots: list[tuple[str, int]]
    """(start, middle or last; optimiser steps), in the order of time."""
    num_examples: int
    """Number of examples in the sample."""
    dim: int
    """Numbers in a sketched gradient."""
    num_chunks: int


class GradientCheckArtifact(Artifact):
    """Comparison of gradients by clusters and subsets; the figures are in gradients.json."""

    kind: str
    snapshots: list[tuple[str, int]]
    subsets: list[str]
    verdict: list[str]
    """Conclusions in sentences, from the figures' intervals."""


class ClustersArtifact(Artifact):
    """Centroids and assignment."""

    inertia: float
    """Sum of squared distances to the centroids."""


class SubsetArtifact(Artifact):
    """The chosen examples."""

    files: list[str]
    """Files of the subset; the first is the one to train on."""
    per_source: dict[str, int]
    """Number of chosen examples of each source."""
    selector: str
    budget: int | float
    """Budget as requested: a count, or a share of the corpus."""
    options: dict[str, Any] = {}
    """All options of the selector, including defaults."""
    notes: dict[str, Any] = {}
    """Decisions of the selector itself."""
    guard: dict[str, Any] | None = None
    """Examples dropped by the guard, by rule (by source, cluster and facet: in guard.json); None: no guard."""
    num_ineligible: int = 0
    """Number of examples chosen despite a guard or the selector's own rule, because the budget exceeds the others."""
    weighted: bool = False
    """Whether the chosen examples have weights."""
    stages: int | None = None
    """Number of stages of a curriculum; None: any order."""


def replay_of(options: Mapping[str, Any]) -> str:
    """Return how a curriculum with these options proceeds: `cumulative`, with all stages so far, or `none`."""
    return str(options.get("replay", "cumulative"))


class HeldOutArtifact(Artifact):
    """Tokens of the held-out sets."""

    names: list[str]
    cut: dict[str, int] = {}
    """Set → number of examples truncated at the target's max_length, if any."""
    contents: dict[str, str] = {}
    """Set → fingerprint of its examples, independent of the set's name."""

    def content_of(self, name: str) -> str | None:
        """Return the fingerprint of a set's examples; None if an earlier version wrote the artifact."""
        return self.contents.get(name)


class TargetArtifact(Artifact):
    """A fine-tuned target."""

    subset: str
    """Name of the subset on which the target was trained, or `full`."""
    summary: dict[str, Any]
    """Summary that rank 0 reports at the end of training."""
    memory: dict[str, Any]
    """Estimated memory of a worker; see lm.memory."""

    @staticmethod
    def is_earlier(manifest: StageManifest) -> bool:
        """Whether an earlier s2l_ray wrote it, whose targets contained evaluations and depended on held-out sets."""
        return "evaluation" in manifest.extra


class HeldOutEvaluationArtifact(Artifact):
    """Results of a fine-tuned target, or of the model before training, on the held-out sets."""

    model: str
    """Name of the subset on which the target was trained; `base`: the model before training."""
    step: int
    """Optimiser steps after which the weights were taken."""
    results: dict[str, dict[str, Any]]
    """Held-out set → figures; see evaluation.metrics.SetResult."""
    before: dict[str, dict[str, Any]]
    """The same for the model before training; empty if this is that model."""


class GenerationArtifact(Artifact):
    """A model's completions for the questions of one task."""

    model: str
    """Name of the model: that of the target's subset, `base`, or `model-…`."""
    task: str
    form: str
    """cot, pot or hybrid."""
    engine: str
    """Engine that generated the text: `transformers` or `vllm`."""
    dtype: str
    engine_version: str | None = None
    """Version of vLLM."""
    batch_invariant: bool | None = None
    """Whether vLLM's text is independent of what was generated in the same batch."""
    num_questions: int
    num_parts: int
    num_new_tokens: int
    """New tokens of all completions."""
    finish: dict[str, int]
    """Number of completions by how they ended: `eos`, `length`."""
    outcomes: dict[str, int] = {}
    """Number of programs by outcome; `no_program` for completions without one."""
    num_not_rendered: int = 0
    """Number of prompts that cannot be rendered, or do not fit into the model's window."""
    sandbox: list[dict[str, Any]] = []
    """What the sandbox blocked on each node on which programs ran; see evaluation.sandbox.ProbeReport."""
    num_halved_batches: int = 0
    """Number of batches that did not fit into a device's memory and were generated in halves."""


class ContaminationArtifact(Artifact):
    """Numbers of questions of a task that are in the corpus."""

    task: str
    exact: int
    ngram: int
    template: int


class EvaluationArtifact(Artifact):
    """Verdicts on a model's answers to one task."""

    model: str
    task: str
    form: str
    engine: str
    dtype: str
    device: str
    """Device that generated the text: `cpu`, `NVIDIA H200`, …"""
    rules_version: int
    num_questions: int
    """Number of questions that were asked."""
    figures: dict[str, dict[str, Any]]
    """Name → value, low, high, num_questions; `correct` for tasks with verdicts, `bleu`, `rougeL`, … for summaries."""
    shares: dict[str, Any]
    """Shares of all questions: truncated, no_answer, program_failed (by outcome), fell_back, contaminated, …"""
    sandbox: list[dict[str, Any]] = []
    """What the sandbox blocked on the nodes on which programs and symbolic comparisons ran."""
    engine_version: str | None = None
    """Version of vLLM, as in the completions."""
    batch_invariant: bool | None = None
    """Whether vLLM was batch-invariant, as in the completions."""

    @property
    def way(self) -> str:
        """How the text was generated (`vllm 0.29.0 (batch-invariant), bfloat16, NVIDIA H100`); text generated in
        another way differs, whatever the models are."""
        engine = self.engine if self.engine_version is None else f"{self.engine} {self.engine_version}"
        invariant = " (batch-invariant)" if self.batch_invariant else ""
        return f"{engine}{invariant}, {self.dtype}, {self.device}"
