"""Tokens: examples → token ids, for the proxy, for targets and for the held-out sets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from s2l_ray.artifacts.models import CorpusArtifact, TokensArtifact
from s2l_ray.artifacts.run import part_rows
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.config.model import RENDER_FIELDS, TrainedModelConfig
from s2l_ray.lm.identity import pinned, tokenizer_identity
from s2l_ray.observability.progress import format_count
from s2l_ray.stages.context import RunContext
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.scratch import scratch_folder


def tokens_spec(
    context: RunContext, corpus: Stage, model: TrainedModelConfig, name: str = "tokens", subset: Stage | None = None
) -> StageSpec:
    """Specify the stage: examples → tokens, with a tokenizer loaded or trained; the tokenizer is stored with them.

    Args:
        model: the section with the tokenizer, style and maximum length.
        name: name of the stage; the same settings and inputs are the same artifact, whatever the name.
        subset: the subset whose examples are tokenised; None: all examples.
    """
    from s2l_ray.data.render import options_of, resolve_style
    from s2l_ray.stages.tokens.build import SubsetFilter, build_tokens

    examples = corpus.storage.sub("examples")
    made = CorpusArtifact.of(corpus)
    format = made.rendered_format
    chosen = None if subset is None else SubsetFilter(subset.storage, "ids.parquet")
    parts_to_do = [p for p, _ in part_rows(corpus)] if chosen is None else chosen.parts()
    total = (subset or corpus).manifest.row_counts["examples"]

    def build(out: Storage) -> StageResult:
        with scratch_folder() as folder, context.progress.stage(name, total, "examples") as bar:
            tokenizer = _tokenizer(model, examples, corpus, folder)
            out.sub("tokenizer").upload_folder(folder)
            parts = build_tokens(
                examples, parts_to_do, out, tokenizer, resolve_style(model.render, format, tokenizer),
                model.max_length, context.config.corpus.max_quarantined_share, context.parallelism, options_of(model),
                chosen, on_rows=lambda rows: bar.update(advance=rows),
            )  # fmt: skip
        summary = (
            f"{format_count(parts.num_tokens)} tokens, {format_count(parts.num_response_tokens)} of them response, "
            f"longest {parts.max_length}; {parts.num_quarantined:,} examples quarantined"
        )
        if parts.num_sequences > parts.num_examples:
            summary += f"; {parts.num_sequences:,} sequences, since turns are rendered differently once others follow"
        if parts.num_cut:
            summary += f"; {parts.num_cut:,} examples truncated at max_length={model.max_length}"
        if parts.num_with_control_tokens:
            held = f"{parts.num_with_control_tokens:,} examples contain control tokens"
            summary += f"; {held}, which are treated as ordinary text"
        figures = {k: v for k, v in dataclasses.asdict(parts).items() if k not in ("parts", "fingerprint")}
        artifact = TokensArtifact(parts=[(p["part"], p["rows"]) for p in parts.parts], **figures)
        counts = {
            "examples": parts.num_examples,
            "sequences": parts.num_sequences,
            "quarantined": parts.num_quarantined,
            "cut": parts.num_cut,
        }
        return StageResult(parts.fingerprint, counts, artifact, summary=summary)

    names = ("model", "revision", "gguf_file", "tokenizer", "train_tokenizer", *RENDER_FIELDS, "max_length")
    settings = model.stored(include=set(names))
    if model.tokenizer or model.train_tokenizer:
        settings |= {"model": None, "revision": None, "gguf_file": None}  # the model's own tokenizer is not used
    places, inputs = tokenizer_identity(model)
    settings |= places
    inputs["corpus"] = corpus.content
    if format != (told := made.told_format) and told:
        settings["format"] = format  # the same rows, read in another way than their columns suggest
    if subset is not None:
        inputs["subset"] = subset.content
    return StageSpec(name, settings, inputs, build, kind="tokens")


def _tokenizer(model: TrainedModelConfig, examples: Storage, corpus: Stage, folder: Path) -> Any:
    """Load or train the tokenizer, and save it to `folder`. It is trained on the whole corpus, so that all subsets have
    the same one."""
    from s2l_ray.data.render import resolve_style
    from s2l_ray.lm.load import load_tokenizer
    from s2l_ray.stages.tokens.build import train_corpus_tokenizer

    if model.train_tokenizer is None:
        tokenizer = load_tokenizer(pinned(model))
        tokenizer.save_pretrained(folder)
        return tokenizer
    style = resolve_style(model.render, CorpusArtifact.of(corpus).rendered_format, None)
    wanted, parts = model.train_tokenizer, [p for p, _ in part_rows(corpus)]
    return train_corpus_tokenizer(examples, parts, style, wanted.vocab_size, wanted.max_examples, str(folder))
