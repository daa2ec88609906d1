"""The typed tree: a docstring and a unit for every field; contradictions are refused here, before Ray starts."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class _Section(BaseModel):
    # Frozen: validation never rewrites what the user wrote, and nothing changes it later.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class HuggingFaceSource(_Section):
    name: str
    """Name on the Hugging Face hub (`TIGER-Lab/MathInstruct`), or a folder written by `Dataset.save_to_disk`."""
    subset: str | None = None
    """Name of the data set's configuration, where it has several."""
    split: str = "train"
    """Which split is the corpus."""
    revision: str | None = None
    """Commit, tag or branch on the hub; pin it for a selection that others can reproduce."""


class QuickstartSource(_Section):
    num_examples: int = Field(20_000, ge=100)
    """How many training examples are generated (examples)."""
    wrong_answer_share: float = Field(0.0, ge=0, lt=1)
    """Seeded share of wrong answers, to study robustness to noise."""


class TemplateConfig(_Section):
    prompt: str
    """Prompt as a Python format string over the columns: `"Findings: {findings}\\nImpression:"`."""
    response: str
    """Response as a format string over the columns: `"{impression}"`."""


class CorpusConfig(_Section):
    paths: list[str] = []
    """Files, folders or globs; local or `s3://`, `gs://`. JSON, JSONL (also .gz, .zst), Parquet, CSV."""
    huggingface: HuggingFaceSource | None = None
    """A Hugging Face data set, instead of `paths`."""
    quickstart: QuickstartSource | None = None
    """The embedded corpus, instead of `paths`."""
    format: Literal["auto", "instruction", "prompt_completion", "messages", "sharegpt", "template"] = "auto"
    """How a row becomes prompt and response: `instruction` (instruction, input?, output), `prompt_completion`,
    `messages` (chat: role, content), `sharegpt` (conversations: from, value), or your own `template`.
    `auto` decides from the first rows' columns."""
    template: TemplateConfig | None = None
    """Prompt and response over your own columns; sets `format: template`."""
    source_column: str | None = "source"
    """Column that says where an example comes from, for balancing and for tables per source; rows without it count
    as source `""`. None: no sources."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Exact duplicates (same prompt and response): `drop` keeps the first, `keep` keeps all; counted either way."""
    max_quarantined_share: float = Field(0.01, ge=0, le=1)
    """Share of rows that may be unusable before the run stops; every unusable row is listed with its reason."""
    drop_columns: list[str] = []
    """Columns that need not travel with the rows (binary columns cannot)."""
    read_bytes_per_task: int = Field(64 * 2**20, ge=1024)
    """Uncompressed JSONL files are read in slices of this size (bytes)."""

    @model_validator(mode="after")
    def _one_source(self) -> CorpusConfig:
        given = [n for n in ("paths", "huggingface", "quickstart") if getattr(self, n)]
        if len(given) != 1:
            said = " and ".join(given) if given else "none of them"
            raise ValueError(
                f"the corpus needs exactly one of paths, huggingface, quickstart; given: {said}. "
                "Set one (for example corpus.paths=[data/train.jsonl]) and leave the others out"
            )
        if self.template and self.format not in ("auto", "template"):
            raise ValueError(f"corpus.template is given but corpus.format={self.format!r}; remove one of the two")
        if self.format == "template" and not self.template:
            raise ValueError("corpus.format=template needs corpus.template.prompt and corpus.template.response")
        return self


class TrainTokenizerConfig(_Section):
    vocab_size: int = Field(2048, ge=260)
    """Size of the byte-level BPE vocabulary trained on the corpus (tokens)."""
    max_examples: int = Field(200_000, ge=1)
    """The tokenizer is trained on at most this many examples, the first by example id."""


class ProxyConfig(_Section):
    model: str | None = None
    """Any Hugging Face causal language model: hub id (`EleutherAI/pythia-70m-deduped`) or local folder."""
    revision: str | None = None
    """Commit, tag or branch of the model on the hub."""
    gguf_file: str | None = None
    """Name of the GGUF file in the model's folder, if its weights come in that format."""
    from_config: dict[str, Any] | None = None
    """A model from scratch, instead of `model`: a `transformers` config (`model_type: llama`, `hidden_size: 64`, …)."""
    random_weights: bool = False
    """Take only the architecture of `model` and start from seeded random weights."""
    tokenizer: str | None = None
    """Hub id or folder of the tokenizer; default: the model's own."""
    train_tokenizer: TrainTokenizerConfig | None = None
    """Train a tokenizer on the corpus instead."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository ships. Off unless you trust that repository."""
    render: Literal["auto", "plain", "alpaca", "chat_template"] = "auto"
    """How messages become text: the tokenizer's chat template, the Alpaca prompt that S2L's authors used, or plain
    text. `auto`: alpaca for single-turn, plain turns for chats."""
    max_length: int = Field(512, ge=8)
    """Longer examples are cut on the right (tokens)."""

    epochs: float = Field(3.0, gt=0)
    """Passes over the corpus."""
    max_steps: int | None = Field(None, ge=1)
    """Optimiser steps, instead of `epochs`."""
    global_batch_size: int = Field(128, ge=1)
    """Examples in one optimiser step over all workers, whatever their number."""
    learning_rate: float = Field(2e-5, gt=0)
    """Peak learning rate of AdamW."""
    warmup_share: float = Field(0.03, ge=0, lt=1)
    """Share of the steps with linearly rising learning rate; cosine decay to 0 afterwards."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay, on matrices only."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this global L2 norm."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast on GPUs, fp32 on CPUs."""
    compile: bool = False
    """Compile the model with torch.compile (some minutes at the start; worth it for long runs)."""
    tokens_per_microbatch: int = Field(8192, ge=8)
    """A worker splits its share of a global batch into micro-batches of at most this many padded tokens."""
    checkpoint_every_steps: int | None = Field(None, ge=1)
    """Steps between checkpoints, beside those at every snapshot; None: at snapshots only."""
    log_every_steps: int = Field(10, ge=1)
    """Steps between lines in metrics.jsonl."""
    seed: int | None = Field(None, ge=0)
    """Seed of weights and data order; None: the run's seed."""

    @model_validator(mode="after")
    def _consistent(self) -> ProxyConfig:
        if (self.model is None) == (self.from_config is None):
            raise ValueError(
                "the proxy needs exactly one of proxy.model (a hub id or folder) and proxy.from_config (from scratch); "
                f"given: model={self.model!r}, from_config={'set' if self.from_config else None}"
            )
        if self.from_config is not None and "model_type" not in self.from_config:
            raise ValueError("proxy.from_config needs model_type (for example llama, gpt_neox, gpt2)")
        if self.from_config is not None and not (self.tokenizer or self.train_tokenizer):
            raise ValueError("a proxy from scratch has no tokenizer: set proxy.tokenizer or proxy.train_tokenizer")
        if self.tokenizer and self.train_tokenizer:
            raise ValueError("proxy.tokenizer and proxy.train_tokenizer exclude each other; remove one")
        if self.train_tokenizer and self.model and not self.random_weights:
            raise ValueError(
                "proxy.train_tokenizer with pretrained weights would pair every embedding with a foreign token; "
                "remove it, or set proxy.random_weights=true"
            )
        if self.tokens_per_microbatch < self.max_length:
            raise ValueError(
                f"proxy.tokens_per_microbatch={self.tokens_per_microbatch} is less than one example of "
                f"proxy.max_length={self.max_length} tokens; raise the one or lower the other"
            )
        return self


class TrajectoriesConfig(_Section):
    num_snapshots: int = Field(12, ge=2)
    """T: how many times every example is scored, evenly spaced over the optimiser steps, first and last included."""
    include_step_zero: bool = False
    """Let the first snapshot be the untrained proxy (step 0) instead of the proxy after its first step."""
    tokens_per_batch: int = Field(8192, ge=8)
    """Padded tokens scored at once; on GPUs 65,536 and more pays."""
    examples_per_part: int | None = Field(None, ge=1)
    """Unit of work and of restart (examples per token file); None: from the corpus's size, 64 to 4,096."""


class ClustersConfig(_Section):
    num_clusters: int = Field(100, ge=1)
    """K of k-means; lowered with a warning if there are fewer distinct trajectories."""
    init: Literal["kmeans++", "random"] = "kmeans++"
    """First centroids; `random` is the paper's recipe, k-means++ resolves the rare trajectories better."""
    num_iterations: int = Field(20, ge=1)
    """Lloyd iterations."""
    max_train_points: int = Field(1_000_000, ge=1)
    """Centroids are trained on a seeded sample of at most this many trajectories; all are assigned, by streaming."""
    seed: int | None = Field(None, ge=0)
    """None: the run's seed."""


class SelectionConfig(_Section):
    budgets: list[int | float] = [0.11]
    """Sizes of the subsets: whole numbers are counts of examples, fractions (0, 1] shares of the corpus."""
    selectors: list[str] = ["s2l"]
    """Rules that choose: s2l, random, random_per_source."""
    stratify: bool = False
    """S2L within each source, sources balanced first (the authors' code), instead of globally (Algorithm 1)."""
    seed: int | None = Field(None, ge=0)
    """None: the run's seed."""

    @field_validator("budgets")
    @classmethod
    def _budgets(cls, budgets: list[int | float]) -> list[int | float]:
        if not budgets:
            raise ValueError("selection.budgets is empty: no subset would be chosen; give for example [0.11]")
        for b in budgets:
            wrong = isinstance(b, bool) or not math.isfinite(b) or b <= 0 or (isinstance(b, float) and b > 1)
            if wrong:
                raise ValueError(
                    f"budget {b!r} is neither a count (whole number, at least 1) nor a share (fraction in (0, 1])"
                )
        return budgets

    @field_validator("selectors")
    @classmethod
    def _selectors(cls, names: list[str]) -> list[str]:
        from s2l_ray.subset.selectors import SELECTORS

        for name in names:
            if name not in SELECTORS:
                raise ValueError(f"unknown selector {name!r}; known: {', '.join(sorted(SELECTORS))}")
        return names


class ResourcesConfig(_Section):
    ray_address: str | None = None
    """Ray cluster to join; None: $RAY_ADDRESS, or the job's own cluster, or an embedded local Ray."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: GPUs if the cluster has or can add one, else CPUs."""
    proxy_workers: int | None = Field(None, ge=1)
    """Ray Train workers that train and score the proxy; None: one per GPU of the cluster, one on CPUs."""
    cpus_per_worker: float | None = Field(None, gt=0)
    """Logical CPUs that each worker reserves; None: 1 beside a GPU, the node's share on CPUs."""
    gpus_per_worker: float = Field(1, gt=0)
    """GPUs that each worker reserves, when device is gpu."""
    accelerator_type: str | None = None
    """Ray accelerator type that workers need (`A100`, `H100`, …)."""
    max_failures: int = Field(3, ge=-1)
    """How often lost workers are replaced before the run stops (it can be resumed then); -1: always."""
    gpu_wait_s: float = Field(120, ge=0)
    """With device auto on a cluster that may scale: how long to wait for a GPU before taking CPUs (seconds)."""


class EstimatesConfig(_Section):
    num_examples: int | None = Field(None, ge=1)
    """Rows of the corpus, for `--dry-run` where they cannot be counted before download."""
    tokens_per_example: float | None = Field(None, gt=0)
    """Mean length (tokens), for `--dry-run` where it cannot be measured before download."""
    num_parameters: int | None = Field(None, ge=1)
    """Parameters of the proxy, for `--dry-run` where its config cannot be loaded."""
    device_tflops: float = Field(0.1, gt=0)
    """Sustained speed assumed for the time estimate (TFLOP/s per worker): 0.1 is two CPU cores, 150 an A100."""


class S2LConfig(_Section):
    """One run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run; letters, digits, dots, dashes, underscores."""
    run_dir: str | None = None
    """Folder of the run, local or s3://, gs://; None: `runs/<name>`."""
    seed: int = Field(0, ge=0)
    """Seed of everything that has no seed of its own."""
    corpus: CorpusConfig
    proxy: ProxyConfig
    trajectories: TrajectoriesConfig = TrajectoriesConfig()
    clusters: ClustersConfig = ClustersConfig()
    selection: SelectionConfig = SelectionConfig()
    resources: ResourcesConfig = ResourcesConfig()
    estimates: EstimatesConfig = EstimatesConfig()

    @property
    def run_uri(self) -> str:
        return self.run_dir or f"runs/{self.name}"

    def seed_of(self, section: Literal["proxy", "clusters", "selection"]) -> int:
        own: int | None = getattr(self, section).seed
        return self.seed if own is None else own

    @model_validator(mode="after")
    def _across_sections(self) -> S2LConfig:
        needs_source = self.selection.stratify or "random_per_source" in self.selection.selectors
        if needs_source and self.corpus.source_column is None:
            raise ValueError(
                "balancing by source needs corpus.source_column, which is none; name the column, "
                "or leave selection.stratify and random_per_source out"
            )
        if self.trajectories.tokens_per_batch < self.proxy.max_length:
            raise ValueError(
                f"trajectories.tokens_per_batch={self.trajectories.tokens_per_batch} is less than one example of "
                f"proxy.max_length={self.proxy.max_length} tokens; raise the one or lower the other"
            )
        steps = self.proxy.max_steps
        if steps is not None and steps < self.trajectories.num_snapshots - self.trajectories.include_step_zero:
            raise ValueError(
                f"trajectories.num_snapshots={self.trajectories.num_snapshots} cannot be spread over "
                f"proxy.max_steps={steps}; lower the one or raise the other"
            )
        if self.resources.device == "cpu" and self.proxy.precision == "bf16":
            raise ValueError(
                "proxy.precision=bf16 on resources.device=cpu would be unusably slow; use fp32 (auto chooses it)"
            )
        return self
