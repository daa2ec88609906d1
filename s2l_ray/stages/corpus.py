"""Corpus: files → examples."""

from __future__ import annotations

import json
from typing import Any

from s2l_ray.artifacts import Stage
from s2l_ray.config.schema import CorpusConfig, S2LConfig
from s2l_ray.corpus.parts import HoldOut
from s2l_ray.corpus.sources import ReadUnit, plan_files
from s2l_ray.pipeline import Built, Pipeline
from s2l_ray.run_folder import Storage, fingerprint


def corpus_stage(pipeline: Pipeline, config: S2LConfig) -> Stage:
    """Files → examples."""
    from s2l_ray.corpus.build import build_corpus

    corpus = config.corpus
    units, inputs = corpus_units(corpus, config.seed, pipeline.run.storage)
    rows_per_part = config.trajectories.examples_per_part
    hold_out = HoldOut(config.heldout.share, config.seed)

    def build(out: Storage) -> Built:
        with pipeline.progress.stage("corpus", None, "rows") as bar:
            parts = build_corpus(
                units, corpus, out, rows_per_part, pipeline.parallelism, hold_out,
                on_rows=lambda rows: bar.update(advance=rows),
            )  # fmt: skip
        counts = {
            "examples": parts.num_examples,
            "duplicates": parts.num_duplicates,
            "quarantined": parts.num_quarantined,
            "held_out": parts.heldout["rows"],
        }
        dropped = "dropped" if corpus.duplicates == "drop" else "kept"
        said = (
            f"{parts.num_examples:,} examples ({parts.format}); {parts.num_duplicates:,} exact duplicates {dropped}, "
            f"{parts.num_quarantined:,} rows quarantined"
        )
        if parts.heldout["rows"]:
            said += f", {parts.heldout['rows']:,} held out"
        extra: dict[str, Any] = {"parts": [[p["part"], p["rows"]] for p in parts.parts], "format": parts.format}
        extra["heldout"] = parts.heldout
        return Built(parts.fingerprint, counts, extra, said=said)

    settings = corpus.stored(exclude={"read_bytes_per_task"}) | {"examples_per_part": rows_per_part}
    if hold_out.share:
        settings["held_out"] = [hold_out.share, hold_out.seed]
    return pipeline.stage("corpus", settings, inputs, build)


def corpus_units(corpus: CorpusConfig, seed: int, run_storage: Storage) -> tuple[list[ReadUnit], dict[str, str]]:
    """What to read, and its fingerprint: names, sizes and times of files; hub revision; the generator's settings."""
    if corpus.quickstart is not None:
        folder = run_storage.sub("quickstart")
        settings = {**corpus.quickstart.model_dump(), "seed": seed}
        _write_quickstart(folder, settings)
        units = [unit_in(folder, "train.jsonl", "jsonl")]
        return units, {"quickstart": fingerprint(settings)}
    if corpus.huggingface is not None:
        return _huggingface_units(corpus, run_storage)
    units = plan_files(corpus.paths, corpus.read_bytes_per_task)
    files = sorted({(u.origin, u.size, u.mtime_ns) for u in units})
    return units, {"files": fingerprint([list(f) for f in files])}


def _write_quickstart(folder: Storage, settings: dict[str, Any]) -> None:
    from s2l_ray.quickstart import generate_corpus

    name = f"{fingerprint(settings)}.json"
    if folder.exists(name):
        return
    train, test = generate_corpus(
        num_train=settings["num_examples"],
        wrong_answer_share=settings["wrong_answer_share"],
        seed=settings["seed"],
    )
    for file, rows in (("train.jsonl", train), ("test.jsonl", test)):
        folder.write_bytes(file, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode())
    folder.write_json(name, settings)


def unit_in(folder: Storage, name: str, kind: str) -> ReadUnit:
    """One whole file of a run folder."""
    size = next(e.size for e in folder.list() if e.name == name)
    return ReadUnit(folder.locator(name), kind, None, 0, size, size)


def _huggingface_units(corpus: CorpusConfig, run_storage: Storage) -> tuple[list[ReadUnit], dict[str, str]]:
    """Write the data set as Parquet into the run folder, where every node can read it; streamed, not held."""
    from s2l_ray.corpus.huggingface import export_parquet

    assert corpus.huggingface is not None
    source = corpus.huggingface
    folder, data_fingerprint, names = export_parquet(source, run_storage)
    return [unit_in(folder, name, "parquet") for name in names], {"huggingface": data_fingerprint}
