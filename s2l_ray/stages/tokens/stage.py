"""Tokens: examples → token ids, for the proxy, for targets and for the held-out sets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from s2l_ray.artifacts.run import part_rows
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.model import RENDER_FIELDS, TrainedModelConfig
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.formats import detect_format, rendered_as, tells_format
from s2l_ray.lm.identity import pinned, tokenizer_identity
from s2l_ray.observability.progress import format_count
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.scratch import scratch_folder
from s2l_ray.workflow.pipeline import Built, Pipeline


def tokens_stage(
    pipeline: Pipeline,
    config: S2LConfig,
    corpus: Stage,
    model: TrainedModelConfig,
    name: str = "tokens",
    subset: Stage | None = None,
) -> Stage:
    """Examples → tokens, with a tokenizer loaded or trained; the tokenizer is stored with them.

    Args:
        model: whose tokenizer, style and length.
        name: of the stage; the same settings and inputs are the same artifact, under whatever name.
        subset: only the examples of this subset; None: all.
    """
    from s2l_ray.data.render import options_of, resolve_style
    from s2l_ray.stages.tokens.build import Chosen, build_tokens

    examples = corpus.storage.sub("examples")
    format = rendered_format(corpus)
    chosen = None if subset is None else Chosen(subset.storage, "ids.parquet")
    parts_to_do = [p for p, _ in part_rows(corpus)] if chosen is None else chosen.parts()
    total = (subset or corpus).manifest.row_counts["examples"]

    def build(out: Storage) -> Built:
        with scratch_folder() as folder, pipeline.progress.stage(name, total, "examples") as bar:
            tokenizer = _tokenizer(model, examples, corpus, folder)
            out.sub("tokenizer").upload_folder(folder)
            parts = build_tokens(
                examples, parts_to_do, out, tokenizer, resolve_style(model.render, format, tokenizer),
                model.max_length, config.corpus.max_quarantined_share, pipeline.parallelism, options_of(model), chosen,
                on_rows=lambda rows: bar.update(advance=rows),
            )  # fmt: skip
        said = (
            f"{format_count(parts.num_tokens)} tokens, {format_count(parts.num_response_tokens)} of them response, "
            f"longest {parts.max_length}; {parts.num_quarantined:,} examples quarantined"
        )
        if parts.num_sequences > parts.num_examples:
            said += f"; {parts.num_sequences:,} sequences, since a turn is written differently once others follow"
        if parts.num_cut:
            said += f"; {parts.num_cut:,} examples cut at max_length={model.max_length}"
        if parts.num_with_control_tokens:
            said += f"; {parts.num_with_control_tokens:,} examples hold control tokens, which are ordinary text there"
        extra = {k: v for k, v in dataclasses.asdict(parts).items() if k not in ("parts", "fingerprint")}
        extra |= {"parts": [[p["part"], p["rows"]] for p in parts.parts], "style": parts.style}
        counts = {
            "examples": parts.num_examples,
            "sequences": parts.num_sequences,
            "quarantined": parts.num_quarantined,
            "cut": parts.num_cut,
        }
        return Built(parts.fingerprint, counts, extra, said=said)

    names = ("model", "revision", "gguf_file", "tokenizer", "train_tokenizer", *RENDER_FIELDS, "max_length")
    settings = model.stored(include=set(names))
    if model.tokenizer or model.train_tokenizer:
        settings |= {"model": None, "revision": None, "gguf_file": None}  # the model's own tokenizer is not used
    places, inputs = tokenizer_identity(model)
    settings |= places
    inputs["corpus"] = corpus.manifest.content_fingerprint
    if format != (told := _told_format(corpus)) and told:
        settings["format"] = format  # the same rows, read otherwise than their columns tell
    if subset is not None:
        inputs["subset"] = subset.manifest.content_fingerprint
    return pipeline.stage(name, settings, inputs, build, kind="tokens")


def _told_format(corpus: Stage) -> str | None:
    """By the columns alone."""
    columns = [name for name, *_ in corpus.manifest.extra.get("columns", [])]
    if not tells_format(columns):
        return None
    return rendered_as(detect_format(columns), corpus.manifest.extra.get("is_chat", False))


def rendered_format(corpus: Stage) -> str:
    """The format by which the corpus is rendered; corpora of earlier versions say only which format they have."""
    return rendered_as(corpus.manifest.extra["format"], corpus.manifest.extra.get("is_chat", False))


def _tokenizer(model: TrainedModelConfig, examples: Storage, corpus: Stage, folder: Path) -> Any:
    """Load or train it, and save it to `folder`. Trained on the whole corpus, so that all subsets have the same one."""
    from s2l_ray.data.render import resolve_style
    from s2l_ray.lm.load import load_tokenizer
    from s2l_ray.stages.tokens.build import train_corpus_tokenizer

    if model.train_tokenizer is None:
        tokenizer = load_tokenizer(pinned(model))
        tokenizer.save_pretrained(folder)
        return tokenizer
    style = resolve_style(model.render, rendered_format(corpus), None)
    wanted, parts = model.train_tokenizer, [p for p, _ in part_rows(corpus)]
    return train_corpus_tokenizer(examples, parts, style, wanted.vocab_size, wanted.max_examples, str(folder))


def open_tokenizer(tokens: Stage) -> Any:
    """The tokenizer stored with the tokens: the files of the manifest, not what else may lie there."""
    from transformers import AutoTokenizer

    with scratch_folder() as local:
        for output in tokens.manifest.outputs:
            if output.name.startswith("tokenizer/"):
                path = Path(local, output.name.removeprefix("tokenizer/"))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tokens.storage.read_bytes(output.name))
        return AutoTokenizer.from_pretrained(local)
