"""The section `evaluation`: which test questions targets answer, how, and what is reported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator

from s2l_ray.config.custom_task import CustomTaskConfig, Form
from s2l_ray.config.section import Location, OptionalLocation, Section, bounded, refuse_repeated

BASE = "base"
"""In `evaluation.subsets`: the target's model before fine-tuning."""
OTHER_MODEL = "model-"
"""Prefix of the labels of models that do not belong to the run."""
_MAX_TASKS = 1000


class EvaluationDataConfig(Section):
    folder: OptionalLocation = None
    """Folder with one file `<task>.jsonl` per built-in task."""
    files: dict[str, list[Location]] = Field(default={})
    """Files of a built-in task (`gsm8k: [s3://bucket/test.jsonl]`), instead of the one in `folder`."""


class GenerationConfig(Section):
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """`auto`: transformers. vLLM needs GPUs, and must be requested explicitly because it is untested on them."""
    max_new_tokens: dict[str, int] = Field(default={})
    """Longest completion by task, with `default` for all others; if not set, 512, for math 1024, for clinical 192
    (tokens)."""
    tokens_per_batch: int = bounded(16_384, 2**26, "a larger batch does not fit in any device's memory", ge=8)
    """Padded prompts and completions per batch with transformers (tokens). Batches depend only on this and on the
    questions."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Data type of weights and cache; `auto`: float32 on CPUs, bfloat16 on GPUs."""
    questions_per_part: int = bounded(256, 1_000_000, "each part is held in one worker's memory", ge=1)
    """Unit of work and of resuming (questions)."""
    samples: int = bounded(1, 1000, "each sample generates every completion again", ge=1)
    """Completions per question; the majority answer counts."""
    temperature: float = bounded(0.0, 100, "tokens would be drawn almost uniformly, whatever the model predicts", ge=0)
    """0: greedy. Above 0: tokens are sampled, seeded by the question's id and the sample's number."""

    @field_validator("max_new_tokens")
    @classmethod
    def _lengths(cls, lengths: dict[str, int]) -> dict[str, int]:
        for name, length in lengths.items():
            if not 1 <= length <= 2**17:
                raise ValueError(
                    f"max_new_tokens.{name}={length} is not a valid completion length; give 1 to {2**17:,}"
                )
        return lengths

    def contradictions(self) -> Iterator[str]:
        if self.samples > 1 and self.temperature == 0:
            yield (
                f"generation.samples={self.samples} with temperature=0 would give the same completion {self.samples} "
                "times; set a temperature, or samples=1"
            )


class SandboxConfig(Section):
    mode: Literal["auto", "bwrap", "external", "off"] = "auto"
    """How programs written by a model are isolated. auto: Landlock and seccomp. bwrap: also bubblewrap's namespaces.
    external: limits only, on nodes that are themselves a sandbox. off: limits only, with your permissions."""
    seconds: float = bounded(5, 86_400, "an answer's program never needs a day", ge=0.01)
    """Time limit of a program (seconds)."""
    memory_mb: int = bounded(1024, 1 << 24, "no node has that much memory", ge=1)
    """Memory limit of a program, beyond the interpreter's own (MiB)."""
    output_kb: int = bounded(64, 1 << 20, "no answer is that long", ge=1)
    """Longest output that is read (KiB)."""
    processes: int | None = bounded(None, 4096, "no node has that many CPUs", ge=1)
    """Programs that a worker runs in parallel; None: one per CPU."""
    i_know_programs_run_with_my_rights: bool = False
    """Needed for `mode: off`."""

    @field_validator("mode", mode="before")
    @classmethod
    def _off(cls, mode: Any) -> Any:
        """YAML reads off as false."""
        return "off" if mode is False else mode

    def contradictions(self) -> Iterator[str]:
        if self.mode == "off" and not self.i_know_programs_run_with_my_rights:
            yield (
                "sandbox.mode=off: programs written by the model would run with your permissions, with access to your "
                "files and network; use auto, or, on a machine that holds nothing of value, set "
                "sandbox.i_know_programs_run_with_my_rights=true (s2l evaluate: --i-know-programs-run-with-my-rights)"
            )


class BertScoreConfig(Section):
    model: OptionalLocation = "distilbert-base-uncased"
    """Encoder, a hub id or a folder; None: no BERTScore."""
    layer: int = bounded(5, 1000, "no encoder has that many layers", ge=0)
    """Hidden layer whose vectors are compared; 0 is the embedding."""
    idf: bool = False
    """Weight tokens by their rarity in the references."""
    rescale: OptionalLocation = None
    """File with baselines to rescale by (columns LAYER, P, R, F)."""
    revision: str | None = None
    """Commit, tag or branch of the encoder on the hub."""


class ConfidenceConfig(Section):
    resamples: int = bounded(10_000, 1_000_000, "more resamples no longer change the intervals", ge=100)
    """Number of bootstrap resamples."""
    level: float = Field(default=0.95, gt=0, lt=1)
    """Confidence level of all intervals."""


class ContaminationConfig(Section):
    ngram: int = bounded(13, 1000, "no question is that long", ge=1)
    """Length of the n-grams (words)."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of a question's n-grams that must occur in the training text for it to count as contaminated."""


class EvaluationConfig(Section):
    tasks: list[str] = Field(min_length=1, max_length=_MAX_TASKS)
    """gsm8k, math, numglue, svamp, mathematics, simuleq, clinical, quickstart (for the built-in corpus), names in
    `custom`, or `custom` for all of those."""
    data: EvaluationDataConfig = EvaluationDataConfig()
    """Where the built-in tasks' questions are."""
    form: Form = "cot"
    """How questions are answered: with a chain of thought (`cot`), with a program (`pot`), or `hybrid`: with a program,
    falling back to a chain of thought if it fails. Programs run in a sandbox."""
    limit: int | None = bounded(None, 10**9, "no test set is that large", ge=1)
    """Ask at most this many questions of each task, the first by id."""
    program_stem: str = " Let's write a program."
    """Text appended to questions that ask for a program, as in the corpus."""
    subsets: list[str] | None = Field(default=None, max_length=1000)
    """Which targets, named by what they were trained on, or `base`, the model before fine-tuning; None: all targets."""
    generation: GenerationConfig = GenerationConfig()
    """How completions are generated."""
    sandbox: SandboxConfig = SandboxConfig()
    """How programs written by a model are run."""
    bertscore: BertScoreConfig = BertScoreConfig()
    """Encoder that compares summaries with their references."""
    confidence: ConfidenceConfig = ConfidenceConfig()
    """How intervals are computed."""
    contamination: ContaminationConfig = ContaminationConfig()
    """Which questions count as contained in the corpus."""
    custom: dict[str, CustomTaskConfig] = Field(default={}, max_length=_MAX_TASKS)
    """Tasks of your own, by name."""

    @field_validator("tasks")
    @classmethod
    def _tasks(cls, names: list[str]) -> list[str]:
        refuse_repeated("evaluation.tasks", names)
        return names

    @field_validator("subsets")
    @classmethod
    def _subsets(cls, names: list[str] | None) -> list[str] | None:
        refuse_repeated("evaluation.subsets", names or [])
        if names == []:
            raise ValueError("evaluation.subsets is empty: nothing would be evaluated; leave it out for all targets")
        return names

    @field_validator("custom")
    @classmethod
    def _names(cls, custom: dict[str, CustomTaskConfig]) -> dict[str, CustomTaskConfig]:
        for name in custom:
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", name) or name == "custom":
                raise ValueError(
                    f"{name!r} cannot name a task (at most 64 letters, digits, - and _; `custom` stands for all)"
                )
        return custom
