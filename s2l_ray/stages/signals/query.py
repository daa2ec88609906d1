"""Embeds the user's own examples of their task in the same way as the corpus: with the same snapshot of the reference,
rendered and tokenised for that model.

Memory: the examples and their tokens on the driver; the embeddings are read by the subset's stage.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.config.model import RENDER_FIELDS, TrainedModelConfig
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.selection.signals import QUERY
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.query_files import WHERE, QueryError, query_content, query_units
from s2l_ray.stages.reference import signal_stage_name
from s2l_ray.stages.signals.stage import Pass, run_signals
from s2l_ray.stages.tokenizer import open_tokenizer, tokenizer_fingerprint
from s2l_ray.storage.folder import Storage

_PART_SEQUENCES = 1024
"""Number of sequences per part, which a worker embeds at once."""


def query_needs(config: S2LConfig, selectors: Iterable[str]) -> list[str]:
    """The embeddings of the user's examples that these selectors compare with."""
    found = {config.selection.query_need(name) for name in selectors}
    return sorted(need for need in found if need is not None)


def query_spec(context: RunContext, need: str, tokens: Stage, reference: Stage) -> StageSpec:
    """Specify a stage: a snapshot's weights and the user's files → embeddings of their examples.

    Args:
        need: `position_weighted_embedding@late`.
        tokens, reference: see `signals_spec`.

    Raises:
        RunError: that snapshot, or its weights, were not kept.
        SourceError: a file is missing.
    """
    config, wanted = context.config, Pass.of(context, need, tokens, reference)
    model = wanted.model(context)

    def build(out: Storage) -> StageResult:
        folder = out.sub("tokens")
        parts, warnings = _tokenise(config, model, tokens, folder)
        what = f"{wanted.column} of all your examples of the task"
        return run_signals(context, wanted, what, parts, folder, out, warnings)

    settings = wanted.settings(context) | model.stored(include={*RENDER_FIELDS, "max_length"})
    settings["corpus"] = config.corpus.model_dump(mode="json", include={"format", "template", "ignore_columns"})
    # The content of the stages before it, by which a run finds this one again, and its other inputs.
    inputs = wanted.inputs(context) | {"tokenizer": tokenizer_fingerprint(tokens), "query": query_content(config)}
    name = signal_stage_name(config, context.run, f"{QUERY}:{need}")
    return StageSpec(name, settings, inputs, build, kind="signals")


def _tokenise(
    config: S2LConfig, model: TrainedModelConfig, tokens: Stage, folder: Storage
) -> tuple[list[tuple[int, int]], list[str]]:
    """Tokenise the examples and write their parts → ((part, sequences) of each, warnings).

    Raises:
        QueryError: no example is usable.
    """
    from s2l_ray.data import user_files
    from s2l_ray.data.render import renderer_of

    rows, format, unusable = user_files.read_files(WHERE, query_units(config), config.corpus, QueryError)
    render = renderer_of(model, format, open_tokenizer(tokens))
    table, too_long = user_files.tokenise(WHERE, rows, render, QueryError)
    limit = f"{model.section}.max_length"
    counts = {
        "rows cannot be used and were skipped": unusable,
        f"examples have no response within {limit} and were skipped": too_long,
        f"examples were truncated at {limit}": render.num_cut,
    }
    warnings = [f"{WHERE}: {count:,} {what}" for what, count in counts.items() if count]
    return write_parts(table, folder), warnings


def write_parts(table: pa.Table, folder: Storage) -> list[tuple[int, int]]:
    """Write TOKEN_SCHEMA rows, in which an example's sequences are consecutive, as parts → (part, sequences) of
    each."""
    folder.delete_dir()
    parts: list[tuple[int, int]] = []
    ids, start = table["example_id"].to_pylist(), 0
    while start < len(ids):
        stop = min(start + _PART_SEQUENCES, len(ids))
        while stop < len(ids) and ids[stop] == ids[stop - 1]:  # sequences of one example stay together
            stop += 1
        folder.write_table(part_name(len(parts)), table.slice(start, stop - start), compression="zstd")
        parts.append((len(parts), stop - start))
        start = stop
    return parts
