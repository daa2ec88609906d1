"""What each stage says of its artifact, beside files and counts: one typed, versioned model a stage.

They lie in the manifest's field `extra`. A stage that is registered from outside may bring a model of its own.
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
    """What a stage says of its artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    VERSION: ClassVar[int] = 1

    version: int = 1
    """Of this model's layout."""

    @classmethod
    def of(cls, stage: HasManifest) -> Self:
        """Read it from the stage's manifest.

        Raises:
            ManifestError: it is another stage's, or of a newer s2l_ray.
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
                f"the manifest of the {name} stage does not hold what this s2l_ray reads there "
                f"({'.'.join(map(str, first['loc']))}: {first['msg']}); delete it to have the stage run again"
            ) from error


class InParts(Artifact):
    """An artifact that is stored in parts."""

    parts: list[tuple[int, int]]
    """(part, its rows), in order; parts without rows are left out."""


class CorpusArtifact(InParts):
    """The examples of a corpus."""

    format: str
    """How its rows were read: `alpaca`, `messages`, …"""
    is_chat: bool = False
    """Whether its rows are chats, whatever columns they came in."""
    facets: dict[str, int] = {}
    """Columns of few values that travel beside the ids, and how many values each has."""
    heldout: dict[str, Any]
    """Of the share that is held out: `rows`, `fingerprint` and `parts`."""
    columns: list[list[Any]] | None = None
    """Types of the user's columns, see data.columns.Columns."""

    @property
    def rendered_format(self) -> str:
        """The format by which the corpus is rendered; corpora of earlier versions say only which format they have."""
        return rendered_as(self.format, self.is_chat)

    @property
    def told_format(self) -> str | None:
        """The same by the columns alone; None where they tell none."""
        columns = [name for name, *_ in self.columns or []]
        return rendered_as(detect_format(columns), self.is_chat) if tells_format(columns) else None


class TokensArtifact(InParts):
    """Token ids of a corpus, or of a subset."""

    num_examples: int
    num_sequences: int
    """At least as many as examples: a chat may need one for each of its responses."""
    num_quarantined: int
    num_cut: int = 0
    """Examples that were cut at `max_length`."""
    num_with_control_tokens: int = 0
    """Examples in whose text a control token stood."""
    num_tokens: int
    num_response_tokens: int
    sum_squared_lengths: int
    """For attention's FLOPs."""
    max_length: int
    """Of the longest sequence (tokens)."""
    max_token_id: int | None = None
    """The largest id; None: tokens of an earlier version do not say."""
    style: str
    """How conversations were rendered."""


class ProxyArtifact(Artifact):
    """The trained proxy and its snapshots."""

    snapshots: list[dict[str, Any]]
    """See artifacts.snapshots.Snapshot."""
    flops: dict[str, float]
    """`training` and `scoring`, restarts not counted."""
    summary: dict[str, Any]
    """What the training's rank 0 says at its end."""


class TrajectoriesArtifact(InParts):
    """The N × T matrix of losses."""

    num_snapshots: int
    signals: str | None = None
    """Fingerprint of what is scored beside the losses; None: an earlier version made it, and that is not there."""


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
    """In the sample."""
    dim: int
    """Numbers of a sketched gradient."""
    num_chunks: int


class GradientCheckArtifact(Artifact):
    """What gradients say of clusters and subsets; the figures are in gradients.json."""

    kind: str
    snapshots: list[tuple[str, int]]
    subsets: list[str]
    verdict: list[str]
    """In plain words, from the figures' intervals."""


class ClustersArtifact(Artifact):
    """Centroids and assignment."""

    inertia: float
    """Sum of squared distances to the centroids."""


class SubsetArtifact(Artifact):
    """The chosen examples."""

    files: list[str]
    """The first is the one to train on."""
    per_source: dict[str, int]
    """Chosen examples of each source."""
    selector: str
    budget: int | float
    """As asked for: a count, or a share of the corpus."""
    options: dict[str, Any] = {}
    """All of the selector's, those left at their defaults too."""
    notes: dict[str, Any] = {}
    """What the selector decided by itself."""
    guard: dict[str, Any] | None = None
    """What the guard dropped, by rule; by source, cluster and facet in the subset's guard.json. None: no guard."""
    num_ineligible: int = 0
    """Chosen although a guard or the selector's own rule speaks against it: the budget exceeds the others."""
    weighted: bool = False
    """Whether the chosen examples have weights."""
    stages: int | None = None
    """Stages of a curriculum; None: any order."""


def replay_of(options: Mapping[str, Any]) -> str:
    """How a curriculum with these options goes on: `cumulative`, each stage with those before it, or `none`."""
    return str(options.get("replay", "cumulative"))


class HeldOutArtifact(Artifact):
    """Tokens of the held-out sets."""

    names: list[str]
    cut: dict[str, int] = {}
    """Set → examples that were cut at the target's max_length, if any were."""
    contents: dict[str, str] = {}
    """Set → fingerprint of its examples, whatever it is called."""

    def content_of(self, name: str) -> str | None:
        """None for what an earlier version wrote."""
        return self.contents.get(name)


class TargetArtifact(Artifact):
    """A fine-tuned target."""

    subset: str
    """What it was trained on: a subset's name, or `full`."""
    summary: dict[str, Any]
    """What the training's rank 0 says at its end."""
    memory: dict[str, Any]
    """What a worker was estimated to need, see lm.memory."""

    @staticmethod
    def is_earlier(manifest: StageManifest) -> bool:
        """Whether an s2l_ray wrote it whose targets held their evaluations, and depended on the held-out sets."""
        return "evaluation" in manifest.extra


class HeldOutEvaluationArtifact(Artifact):
    """A fine-tuned target, or the model that targets begin with, on the held-out sets."""

    model: str
    """What the target was trained on; `base`: the model before training."""
    step: int
    """Optimiser steps that its weights are from."""
    results: dict[str, dict[str, Any]]
    """Held-out set → figures, see evaluation.metrics.SetResult."""
    before: dict[str, dict[str, Any]]
    """The same of the model before training; empty if this is it."""


class GenerationArtifact(Artifact):
    """A model's completions of the questions of one task."""

    model: str
    """What the model is called: a target by what it was trained on, `base`, or `model-…`."""
    task: str
    form: str
    """cot, pot or hybrid."""
    engine: str
    """What generated: `transformers` or `vllm`."""
    dtype: str
    engine_version: str | None = None
    """Of vLLM."""
    batch_invariant: bool | None = None
    """Of vLLM: whether texts do not depend on what was generated beside them."""
    num_questions: int
    num_parts: int
    num_new_tokens: int
    """Of all completions."""
    finish: dict[str, int]
    """Completions by how they ended: `eos`, `length`."""
    outcomes: dict[str, int] = {}
    """Programs by what became of them; `no_program` where a completion held none."""
    num_not_rendered: int = 0
    """Prompts that cannot be rendered, or do not fit into the model's window."""
    sandbox: list[dict[str, Any]] = []
    """What the sandbox kept out on each node on which programs ran, see evaluation.sandbox.ProbeReport."""
    num_halved_batches: int = 0
    """Batches that did not fit into a device's memory and were generated in halves."""


class ContaminationArtifact(Artifact):
    """Which questions of a task are in the corpus."""

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
    """What generated: `cpu`, `NVIDIA H200`, …"""
    rules_version: int
    num_questions: int
    """That were asked."""
    figures: dict[str, dict[str, Any]]
    """Name → value, low, high, num_questions; `correct` of tasks with verdicts, `bleu`, `rougeL`, … of summaries."""
    shares: dict[str, Any]
    """Of all questions: truncated, no_answer, program_failed (by outcome), fell_back, contaminated, …"""
    sandbox: list[dict[str, Any]] = []
    """Of the nodes on which programs and symbolic comparisons ran."""
    engine_version: str | None = None
    """As of the completions."""
    batch_invariant: bool | None = None
    """Likewise."""

    @property
    def way(self) -> str:
        """How the texts came about (`vllm 0.29.0 (batch-invariant), bfloat16, NVIDIA H100`): those of another way
        differ, whatever the models are."""
        engine = self.engine if self.engine_version is None else f"{self.engine} {self.engine_version}"
        invariant = " (batch-invariant)" if self.batch_invariant else ""
        return f"{engine}{invariant}, {self.dtype}, {self.device}"
