"""Corpus: files → examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from s2l_ray.artifacts.generated_corpus import quickstart_units, recorded_unit
from s2l_ray.artifacts.models import CorpusArtifact
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.config.corpus import LATER_SETTINGS, HuggingFaceSource
from s2l_ray.config.load import ConfigError
from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.config.schema import CorpusConfig, S2LConfig
from s2l_ray.data.corpus_parts import HoldOut
from s2l_ray.data.quarantine import QuarantineLimitError
from s2l_ray.data.sources import ReadUnit, plan_files
from s2l_ray.data.units import SourceError, UnusableRow
from s2l_ray.errors import foreign_named, shown
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.corpus.columns import asked_facets, check_columns
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage
from s2l_ray.text.redact import strip_credentials

_MANY_SOURCES = 50


def corpus_spec(context: RunContext, selecting: Sequence[S2LConfig] = ()) -> StageSpec:
    """Specify the stage: files → examples.

    Args:
        selecting: the configurations that select from this corpus; none: the context's.
    """
    from s2l_ray.stages.corpus.build import build_corpus

    config, corpus = context.config, context.config.corpus
    units, inputs = corpus_units(corpus, config.seed, context.run.storage, context.progress.say)
    rows_per_part = config.trajectories.examples_per_part
    hold_out = HoldOut(config.heldout.share, config.seed)

    def build(out: Storage) -> StageResult:
        with context.progress.stage("corpus", None, "rows") as bar:
            parts = build_corpus(
                units, corpus, out, rows_per_part, context.parallelism, hold_out,
                on_rows=lambda rows: bar.update(advance=rows),
            )  # fmt: skip
        counts = {
            "examples": parts.num_examples,
            "duplicates": parts.num_duplicates,
            "quarantined": parts.num_quarantined,
            "held_out": parts.heldout["rows"],
        }
        dropped = "dropped" if corpus.duplicates == "drop" else "kept"
        summary = (
            f"{parts.num_examples:,} examples ({parts.format}); {parts.num_duplicates:,} exact duplicates {dropped}, "
            f"{parts.num_quarantined:,} rows quarantined"
        )
        if parts.heldout["rows"]:
            summary += f", {parts.heldout['rows']:,} held out"
        if parts.facets:
            summary += f"; facets: {', '.join(f'{name} ({count} values)' for name, count in parts.facets.items())}"
        artifact = CorpusArtifact(
            parts=[(p["part"], p["rows"]) for p in parts.parts], format=parts.format, heldout=parts.heldout,
            columns=parts.columns.to_plain(), is_chat=parts.is_chat, facets=parts.facets,
        )  # fmt: skip
        warnings = parts.columns.warnings() + _about_sources(
            corpus.source_column, parts.num_sources, parts.num_examples
        )
        return StageResult(parts.fingerprint, counts, artifact, warnings, summary=summary)

    # Settings that were added later are in the key only if set, so that the keys of earlier runs remain valid.
    unset = {name for name, value in LATER_SETTINGS.items() if getattr(corpus, name) == value}
    settings = corpus.stored(exclude={"read_bytes_per_task", "max_row_bytes"} | unset)
    settings["examples_per_part"] = rows_per_part
    if hold_out.share:
        settings["held_out"] = [hold_out.share, hold_out.seed]

    def prepare() -> None:
        """A dataset of the hub is here only now, and nothing has started yet."""
        if corpus.huggingface is not None:
            for note in check_columns(config, units, selecting):
                context.progress.say(f"[corpus] {note}")

    return StageSpec("corpus", settings, inputs, build, prepare=prepare)


def _about_sources(column: str | None, num_sources: int, num_examples: int) -> list[str]:
    """A warning if almost every row has its own source."""
    if column is None or num_sources < _MANY_SOURCES or num_sources * 2 < num_examples:
        return []
    return [
        f"corpus.source_column={column} has about {num_sources:,} values for {num_examples:,} examples, so balancing "
        "by source and tables per source are meaningless; name a column with few values, or set "
        "corpus.source_column=null"
    ]


def check_stratum(config: S2LConfig, corpus: Stage, selecting: Sequence[S2LConfig] = ()) -> None:
    """Refuse to balance by a column that is not a facet of the corpus.

    Args:
        selecting: the configurations that select from this corpus; none: `config` itself.

    Raises:
        ConfigError: one of them balances by such a column.
    """
    facets = CorpusArtifact.of(corpus).facets
    for by, here in asked_facets([one for one in selecting or [config] if one.corpus == config.corpus]).items():
        if by not in facets:
            raise ConfigError(
                f"{here}={by}: that column is not a facet of this corpus (its facets: {shown(list(facets))}), so "
                f"nothing can be balanced by it; name it in corpus.facets, or use true to balance sources"
            )


def check_corpus_files(config: S2LConfig, selecting: Sequence[S2LConfig] = ()) -> list[str]:
    """Check the corpus's first rows before anything is started.

    Args:
        selecting: the configurations that select from this corpus; none: `config` itself.

    Returns:
        What is suspicious, and cannot be known before all rows have been read.

    Raises:
        SourceError, UnknownFormat, QuarantineLimitError: files are missing or cannot be read, or no row is usable.
        ConfigError: a setting names a column that the corpus does not have.
        UserError: the proxy or the target cannot render any of these rows, or lacks embeddings for their tokens.
    """
    from s2l_ray.data.formats import rendered_as
    from s2l_ray.data.read_task import first_rows, is_chat, sample_format
    from s2l_ray.data.render import resolve_style

    corpus = config.corpus
    if corpus.huggingface is not None:
        from s2l_ray.artifacts.huggingface import check_saved

        check_saved(corpus.huggingface)
        return []  # its rows are known once it is exported
    units = None
    if corpus.paths:
        what = f"corpus.paths={shown([strip_credentials(path) for path in corpus.paths])} cannot be read"
        with foreign_named(SourceError, what, "Check the files, or name others"):
            silent: list[str] = []  # what the files say is said by the estimate, and by the stage that reads them
            units = plan_files(corpus.paths, corpus.read_bytes_per_task, run_uri=config.run_uri, say=silent.append)
            format = sample_format(units, corpus)
            if "alpaca" in (config.proxy.render, config.target and config.target.render):
                chats = any(is_chat(raw, corpus, format) for raw in first_rows(units, corpus.max_row_bytes))
                resolve_style("alpaca", rendered_as(format, chats), None)
        for model in (config.proxy, config.target):
            if model is not None:
                _check_rendering(units, corpus, format, model)
    return check_columns(config, units, selecting)


def _check_rendering(units: list[ReadUnit], corpus: CorpusConfig, format: str, model: TrainedModelConfig) -> None:
    """Render the first rows and, if that fails for all of them, those of the last file, before hours of reading."""
    from s2l_ray.data.formats import rendered_as
    from s2l_ray.data.read_task import first_conversations
    from s2l_ray.data.render import renderer_of
    from s2l_ray.lm.load import load_model_config, load_tokenizer
    from s2l_ray.lm.vocabulary import check_token_ids, num_token_ids

    if model.train_tokenizer is not None:
        return  # new tokenizers can encode any text, and styles other than chat templates refuse none
    tokenizer = load_tokenizer(model)
    reasons: Counter[str] = Counter()
    for some in (units, units[::-1]):
        chats = first_conversations(some, corpus, format)
        render = renderer_of(model, rendered_as(format, any(chat.is_chat for chat in chats)), tokenizer)
        rows = [render.ids(chat.turns, chat.tools) for chat in chats]
        if ids := [i for row in rows if not isinstance(row, UnusableRow) for i in row]:
            model_config = load_model_config(model, vocab_size=num_token_ids(tokenizer))
            check_token_ids(max(ids), model_config, tokenizer, model, "texts of the corpus use")
            return
        reasons.update(str(row) for row in rows)
    if reasons:
        reason, _ = reasons.most_common(1)[0]
        raise QuarantineLimitError(
            f"{model.section}: none of the {len(chats):,} rows that were checked can be rendered, so there would be "
            f"nothing to train on: {reason}"
        )


def corpus_units(
    corpus: CorpusConfig, seed: int, run_storage: Storage, say: Callable[[str], None]
) -> tuple[list[ReadUnit], dict[str, str]]:
    """What to read, and its fingerprint: digests of files made in the run's folder; names, sizes and times of the
    user's.

    The latter are a cheap first check: if they changed but the content did not, this stage is rebuilt but those after
    it are not, because they depend only on the content of the examples.
    """
    if corpus.quickstart is not None:
        train, _ = quickstart_units(run_storage, seed=seed, say=say, **corpus.quickstart.model_dump())
        return [train], {"quickstart": train.digest}
    if corpus.huggingface is not None:
        return _huggingface_units(corpus.huggingface, run_storage, say)
    units = plan_files(corpus.paths, corpus.read_bytes_per_task, run_uri=run_storage.locator(), say=say)
    files = sorted({(u.origin, u.size, u.mtime_ns) for u in units})
    return units, {"files": fingerprint([list(f) for f in files])}


def _huggingface_units(
    source: HuggingFaceSource, run_storage: Storage, say: Callable[[str], None]
) -> tuple[list[ReadUnit], dict[str, str]]:
    """Write the dataset as Parquet into the run's folder, where every node can read it; it is streamed, not held."""
    from s2l_ray.artifacts.huggingface import export_parquet

    export = export_parquet(source, run_storage, say)
    inputs = {"huggingface": fingerprint([f.digest for f in export.files])}
    if export.commit:
        inputs["commit"] = export.commit
    return [recorded_unit(export.folder, file, "parquet") for file in export.files], inputs
