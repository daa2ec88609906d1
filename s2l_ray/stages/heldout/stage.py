"""Held-out sets: the corpus's own split and the user's files → tokens for the target's evaluation."""

from __future__ import annotations

from s2l_ray.artifacts.generated_corpus import quickstart_units
from s2l_ray.artifacts.models import CorpusArtifact, HeldOutArtifact
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.config.heldout import QUICKSTART_SET, SPLIT
from s2l_ray.config.load import ConfigError
from s2l_ray.config.model import RENDER_FIELDS
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.sources import ReadUnit, plan_files
from s2l_ray.data.unchanged import unit_content
from s2l_ray.errors import foreign_named
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.tokenizer import open_tokenizer, tokenizer_fingerprint
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage


def heldout_spec(context: RunContext, corpus: Stage, tokens: Stage) -> StageSpec | None:
    """Specify the stage; None if nothing is held out.

    Args:
        tokens: the target's tokens, whose tokenizer and style are used.
    """
    config = context.config
    assert config.target is not None
    files = heldout_files(context)
    split = CorpusArtifact.of(corpus).heldout
    names = [*files, *([SPLIT] if split["rows"] else [])]
    if not names:
        return None
    target = config.target

    def build(out: Storage) -> StageResult:
        return _build(context, corpus, tokens, files, names, out)

    settings = {"names": names, **target.stored(include={*RENDER_FIELDS, "max_length"})}
    settings["corpus"] = config.corpus.model_dump(mode="json", include={"format", "template", "source_column"})
    if config.corpus.ignore_columns:
        settings["corpus"]["ignore_columns"] = config.corpus.ignore_columns
    inputs = heldout_inputs(
        {
            "corpus": corpus.content,
            "split": split["fingerprint"],
            "tokenizer": tokenizer_fingerprint(tokens),
        },
        {name: fingerprint([unit_content(u) for u in units]) for name, units in files.items()},
    )
    return StageSpec("heldout", settings, inputs, build)


def heldout_inputs(fixed: dict[str, str], sets: dict[str, str]) -> dict[str, str]:
    """The inputs in the stage's key; a set with the name of another input gets a prefix, since names of sets have no
    dot."""
    return fixed | {f"files.{name}" if name in fixed else name: content for name, content in sets.items()}


def heldout_files(context: RunContext) -> dict[str, list[ReadUnit]]:
    """The sets that are read from files."""
    config = context.config
    files = _user_files(config)
    if config.corpus.quickstart is not None:
        quickstart = config.corpus.quickstart.model_dump()
        _, test = quickstart_units(context.run.storage, seed=config.seed, say=context.progress.say, **quickstart)
        files[QUICKSTART_SET] = [test]
    return files


def _user_files(config: S2LConfig) -> dict[str, list[ReadUnit]]:
    return {name: _planned(config, name, paths) for name, paths in config.heldout.files.items()}


def _planned(config: S2LConfig, name: str, paths: list[str]) -> list[ReadUnit]:
    return plan_files(paths, 2**40, f"heldout.files.{name}", config.run_uri)


def check_heldout_files(config: S2LConfig) -> None:
    """Check the first rows of the user's files, before hours of training.

    Raises:
        SourceError, HeldOutError: a file is missing, or contains nothing usable.
    """
    from s2l_ray.data.render import resolve_style
    from s2l_ray.stages.heldout.build import HeldOutError, format_of

    for name, paths in config.heldout.files.items():
        cure = "Check its files, or name others"
        with foreign_named(HeldOutError, f"heldout.files.{name} cannot be used", cure):
            format = format_of(name, _planned(config, name, paths), config.corpus)
            if config.target is not None and config.target.render == "alpaca":
                resolve_style("alpaca", format, None)


def check_objective_set(config: S2LConfig) -> None:
    """Raises ConfigError if the run will not have the held-out set that is to decide."""
    names = config.heldout.names(config.corpus.quickstart is not None)
    asked = config.sweep.heldout_set
    if asked is not None and asked not in names:
        raise ConfigError(
            f"sweep.heldout_set={asked!r} is not a held-out set of this run, so nothing could be judged by it; "
            f"there will be: {', '.join(sorted(names)) or 'none'}"
        )


def _build(
    context: RunContext,
    corpus: Stage,
    tokens: Stage,
    files: dict[str, list[ReadUnit]],
    names: list[str],
    out: Storage,
) -> StageResult:
    from s2l_ray.data.render import renderer_of
    from s2l_ray.data.user_files import read_split
    from s2l_ray.stages.heldout.build import drop_trained_on, read_files, tokenise

    config, made = context.config, CorpusArtifact.of(corpus)
    assert config.target is not None
    tokenizer = open_tokenizer(tokens)
    counts: dict[str, int] = {}
    warnings: list[str] = []
    contents: dict[str, str] = {}
    cut: dict[str, int] = {}
    with context.progress.stage("heldout", len(files) * sum(n for _, n in made.parts), "rows") as bar:
        for name in names:
            if name in files:
                rows, format, unusable = read_files(name, files[name], config.corpus)
                rows, trained_on = drop_trained_on(
                    name, rows, corpus.storage.sub("examples"), [p for p, _ in made.parts], context.parallelism,
                    on_rows=lambda rows: bar.update(advance=rows),
                )  # fmt: skip
                if unusable:
                    warnings.append(f"{name}: {unusable:,} rows cannot be used and were skipped")
                if trained_on:
                    warnings.append(f"{name}: {trained_on:,} examples are also in the corpus and were skipped")
            else:
                rows = read_split(corpus.storage, made.heldout["parts"])
                format = made.rendered_format
            render = renderer_of(config.target, format, tokenizer)
            table, unusable = tokenise(name, rows, render)
            if render.num_cut:
                cut[name] = render.num_cut
            if unusable:
                warnings.append(f"{name}: {unusable:,} examples cannot be rendered within max_length and were skipped")
            out.write_table(f"{name}.parquet", table, compression="zstd")
            counts[name] = table.num_rows
            ids = [i.hex() for i in table["example_id"].to_pylist()]
            contents[name] = fingerprint([ids, table["input_ids"].to_pylist()])
    summary = ", ".join(f"{name}: {n:,} examples" for name, n in counts.items())
    artifact = HeldOutArtifact(names=names, cut=cut, contents=contents)
    content = fingerprint([[name, own] for name, own in contents.items()])
    return StageResult(content, counts, artifact, warnings, summary=summary)
