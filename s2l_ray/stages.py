"""What each stage reads, which settings it depends on, and how its builder is called. The order is the story."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2l_ray.artifacts import Stage, part_rows
from s2l_ray.cluster.placement import Placement, local_cores, place, wait_for_gpu
from s2l_ray.config.schema import CorpusConfig, ProxyConfig, S2LConfig
from s2l_ray.corpus.sources import ReadUnit, plan_files
from s2l_ray.pipeline import Built, Pipeline
from s2l_ray.run_folder import Storage, fingerprint
from s2l_ray.run_folder.progress import format_count


def run_stages(pipeline: Pipeline) -> None:
    """All stages; Ray is connected."""
    import ray

    config = pipeline.run.config
    cores = None if os.environ.get("RAY_ADDRESS") or config.resources.ray_address else local_cores()
    wait_for_gpu(config.resources)
    pipeline.placement = place(config.resources, ray.cluster_resources(), cores)
    corpus = corpus_stage(pipeline, config)
    tokens = tokens_stage(pipeline, config, corpus)
    proxy = proxy_stage(pipeline, config, tokens)
    trajectories_stage(pipeline, config, tokens, proxy)
    clusters_stage(pipeline, config)
    inputs = None
    for selector in config.selection.selectors:
        for budget in config.selection.budgets:
            inputs = inputs or _selection_inputs(pipeline)
            subset_stage(pipeline, config, selector, budget, inputs)


def _placement(pipeline: Pipeline) -> Placement:
    assert pipeline.placement is not None
    return pipeline.placement


# --- corpus ---------------------------------------------------------------------------------------------------------


def corpus_stage(pipeline: Pipeline, config: S2LConfig) -> Stage:
    """Files → examples."""
    from s2l_ray.corpus.build import build_corpus

    corpus = config.corpus
    units, inputs = corpus_units(corpus, config.seed, pipeline.run.storage)
    rows_per_part = config.trajectories.examples_per_part

    def build(out: Storage) -> Built:
        with pipeline.progress.stage("corpus", None, "rows") as bar:
            parts = build_corpus(
                units, corpus, out, rows_per_part, _placement(pipeline).parallelism,
                on_rows=lambda rows: bar.update(advance=rows),
            )  # fmt: skip
        counts = {
            "examples": parts.num_examples,
            "duplicates": parts.num_duplicates,
            "quarantined": parts.num_quarantined,
        }
        dropped = "dropped" if corpus.duplicates == "drop" else "kept"
        said = (
            f"{parts.num_examples:,} examples ({parts.format}); {parts.num_duplicates:,} exact duplicates {dropped}, "
            f"{parts.num_quarantined:,} rows quarantined"
        )
        extra = {"parts": [[p["part"], p["rows"]] for p in parts.parts], "format": parts.format}
        return Built(parts.fingerprint, counts, extra, said=said)

    settings = corpus.model_dump(mode="json", exclude={"read_bytes_per_task"}) | {"examples_per_part": rows_per_part}
    return pipeline.stage("corpus", settings, inputs, build)


def corpus_units(corpus: CorpusConfig, seed: int, run_storage: Storage) -> tuple[list[ReadUnit], dict[str, str]]:
    """What to read, and its fingerprint: names, sizes and times of files; hub revision; the generator's settings."""
    if corpus.quickstart is not None:
        folder = run_storage.sub("quickstart")
        settings = {**corpus.quickstart.model_dump(), "seed": seed}
        _write_quickstart(folder, settings)
        units = [_unit_in(folder, "train.jsonl", "jsonl")]
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
    import json

    train, test = generate_corpus(
        num_train=settings["num_examples"],
        wrong_answer_share=settings["wrong_answer_share"],
        seed=settings["seed"],
    )
    for file, rows in (("train.jsonl", train), ("test.jsonl", test)):
        folder.write_bytes(file, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode())
    folder.write_json(name, settings)


def _unit_in(folder: Storage, name: str, kind: str, origin: str = "") -> ReadUnit:
    size = next(e.size for e in folder.list() if e.name == name)
    return ReadUnit(folder.locator(name), kind, None, 0, size, size)


def _huggingface_units(corpus: CorpusConfig, run_storage: Storage) -> tuple[list[ReadUnit], dict[str, str]]:
    """Write the data set as Parquet into the run folder, where every node can read it; streamed, not held."""
    from s2l_ray.corpus.huggingface import export_parquet

    assert corpus.huggingface is not None
    source = corpus.huggingface
    folder, data_fingerprint, names = export_parquet(source, run_storage)
    return [_unit_in(folder, name, "parquet") for name in names], {"huggingface": data_fingerprint}


# --- tokens ---------------------------------------------------------------------------------------------------------


def tokens_stage(pipeline: Pipeline, config: S2LConfig, corpus: Stage) -> Stage:
    """Examples → tokens, with a tokenizer loaded or trained; the tokenizer is stored with them."""
    from s2l_ray.lm.load import load_tokenizer
    from s2l_ray.tokens.build import build_tokens, train_corpus_tokenizer
    from s2l_ray.tokens.render import resolve_style

    proxy = config.proxy
    examples = corpus.storage.sub("examples")
    corpus_parts = [p for p, _ in part_rows(corpus)]
    format = corpus.manifest.extra["format"]

    def build(out: Storage) -> Built:
        total = corpus.manifest.row_counts["examples"]
        with tempfile.TemporaryDirectory() as folder, pipeline.progress.stage("tokens", total, "examples") as bar:
            if proxy.train_tokenizer is not None:
                style = resolve_style(proxy.render, format, None)
                settings = proxy.train_tokenizer
                tokenizer = train_corpus_tokenizer(
                    examples, corpus_parts, style, settings.vocab_size, settings.max_examples, folder
                )
            else:
                tokenizer = load_tokenizer(proxy)
                style = resolve_style(proxy.render, format, tokenizer)
                tokenizer.save_pretrained(folder)
            copy_folder(Path(folder), out.sub("tokenizer"))
            parts = build_tokens(
                examples, corpus_parts, out, tokenizer, style, proxy.max_length,
                config.corpus.max_quarantined_share, _placement(pipeline).parallelism,
                on_rows=lambda rows: bar.update(advance=rows),
            )  # fmt: skip
        said = (
            f"{format_count(parts.num_tokens)} tokens, {format_count(parts.num_response_tokens)} of them response, "
            f"longest {parts.max_length}; {parts.num_quarantined:,} examples quarantined"
        )
        extra = {k: v for k, v in dataclasses.asdict(parts).items() if k not in ("parts", "fingerprint")}
        extra |= {"parts": [[p["part"], p["rows"]] for p in parts.parts], "style": style}
        counts = {"examples": parts.num_examples, "quarantined": parts.num_quarantined}
        return Built(parts.fingerprint, counts, extra, said=said)

    names = ("model", "revision", "gguf_file", "tokenizer", "train_tokenizer", "render", "max_length")
    settings = proxy.model_dump(mode="json", include=set(names))
    if proxy.tokenizer or proxy.train_tokenizer:
        settings |= {"model": None, "revision": None, "gguf_file": None}  # the model's own tokenizer is not used
    source = proxy.tokenizer or (proxy.model if not proxy.train_tokenizer else None)
    inputs = {"corpus": corpus.manifest.content_fingerprint, **_local_folder("tokenizer", source)}
    return pipeline.stage("tokens", settings, inputs, build)


def copy_folder(source: Path, target: Storage) -> None:
    """All files of a flat local folder."""
    for path in sorted(p for p in source.iterdir() if p.is_file()):
        target.write_bytes(path.name, path.read_bytes())


def _local_folder(name: str, where: str | None) -> dict[str, str]:
    """A model in a local folder may change under its name: its files' sizes and times count as input."""
    if not where or not Path(where).is_dir():
        return {}
    files = sorted(p for p in Path(where).iterdir() if p.is_file())
    return {name: fingerprint([[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files])}


def open_tokenizer(tokens: Stage) -> Any:
    """The tokenizer stored with the tokens."""
    from transformers import AutoTokenizer

    folder = tokens.storage.sub("tokenizer")
    with tempfile.TemporaryDirectory() as local:
        for entry in folder.list():
            Path(local, entry.name).write_bytes(folder.read_bytes(entry.name))
        return AutoTokenizer.from_pretrained(local)


# --- proxy ----------------------------------------------------------------------------------------------------------


def proxy_stage(pipeline: Pipeline, config: S2LConfig, tokens: Stage) -> Stage:
    """Tokens → losses at T snapshots and the trained proxy."""
    from s2l_ray.proxy.plan import make_plan, snapshot_steps

    proxy, seed = config.proxy, config.seed_of("proxy")
    plan = make_plan(part_rows(tokens), proxy.global_batch_size, proxy.epochs, proxy.max_steps, seed)
    snapshots = snapshot_steps(
        plan.total_steps, config.trajectories.num_snapshots, config.trajectories.include_step_zero
    )

    def build(out: Storage) -> Built:
        return _build_proxy(pipeline, config, tokens, plan, snapshots, seed, out)

    # What changes no number stays out: a run may be resumed on other machines, with another number of workers.
    not_numbers = {"log_every_steps", "checkpoint_every_steps", "compile", "seed", "render", "precision"}
    precision = _precision(proxy, _placement(pipeline))
    settings = proxy.model_dump(mode="json", exclude=not_numbers) | {"precision": precision, "seed": seed}
    settings["trajectories"] = config.trajectories.model_dump(mode="json", exclude={"examples_per_part"})
    inputs = {"tokens": tokens.manifest.content_fingerprint, **_local_folder("model", proxy.model)}
    return pipeline.stage("proxy", settings, inputs, build)


def _precision(proxy: ProxyConfig, placement: Placement) -> str:
    return proxy.precision if proxy.precision != "auto" else ("bf16" if placement.device == "gpu" else "fp32")


def _build_proxy(
    pipeline: Pipeline, config: S2LConfig, tokens: Stage, plan: Any, snapshots: list[int], seed: int, out: Storage
) -> Built:
    from s2l_ray.proxy.loop import ProxyJob
    from s2l_ray.proxy.report import ProxyReport
    from s2l_ray.proxy.snapshots import read_snapshot
    from s2l_ray.proxy.workers import train_and_score

    placement = _placement(pipeline)
    threads = max(1, int(placement.cpus_per_worker)) if placement.device == "cpu" else None
    job = ProxyJob(
        config.proxy, config.trajectories, plan, tuple(snapshots), seed, open_tokenizer(tokens),
        tokens.storage.sub("parts"), out, threads,
    )  # fmt: skip
    pipeline.progress.say(
        f"[proxy] {plan.total_steps:,} steps of {config.proxy.global_batch_size} examples, "
        f"{len(snapshots)} snapshots, on {placement.describe()}"
    )
    with ProxyReport(pipeline.progress, pipeline.metrics, plan, len(snapshots)) as report:
        summary = train_and_score(job, placement, config.resources.max_failures, report.on_event)
    taken = [read_snapshot(out, i) for i in range(len(snapshots))]
    complete = [s for s in taken if s is not None]
    if len(complete) != len(snapshots):
        raise RuntimeError(f"{len(snapshots)} snapshots were asked for, {len(complete)} are complete in {out.uri}")
    flops = _flops(summary, tokens, plan, len(snapshots))
    first, last = complete[0].mean_loss_nats, complete[-1].mean_loss_nats
    said = (
        f"{format_count(summary['num_parameters'])} parameters, {plan.total_steps:,} steps; mean loss "
        f"{first:.3f} → {last:.3f} nats/token over {len(complete)} snapshots"
    )
    extra = {"snapshots": [dataclasses.asdict(s) for s in complete], "flops": flops, "summary": summary}
    content = fingerprint([[s.step, s.weights, s.num_examples, s.mean_loss_nats] for s in complete])
    return Built(
        content, {"scores": sum(s.num_examples for s in complete)}, extra, seeds={"proxy": seed}, said=said,
        device=summary["device"], num_devices=placement.num_workers, peak_memory_bytes=summary["peak_memory_bytes"],
    )  # fmt: skip


def _flops(summary: dict[str, Any], tokens: Stage, plan: Any, num_snapshots: int) -> dict[str, float]:
    """Of the whole stage, restarts not counted."""
    from s2l_ray.lm.flops import ModelShape

    shape = ModelShape(
        summary["body_parameters"], summary["head_parameters"], summary["num_layers"], summary["attention_width"]
    )
    counts = tokens.manifest.extra
    one_pass = (counts["num_tokens"], counts["num_response_tokens"], counts["sum_squared_lengths"])
    epochs = plan.total_steps / plan.steps_per_epoch
    return {
        "training": shape.training_flops(*one_pass) * epochs,
        "scoring": float(shape.forward_flops(*one_pass) * num_snapshots),
    }


# --- trajectories, clusters -----------------------------------------------------------------------------------------


def trajectories_stage(pipeline: Pipeline, config: S2LConfig, tokens: Stage, proxy: Stage) -> Stage:
    """Losses of T snapshots → the N × T matrix."""
    from s2l_ray.proxy.snapshots import Snapshot
    from s2l_ray.trajectories.build import build_trajectories

    snapshots = [Snapshot(**s) for s in proxy.manifest.extra["snapshots"]]

    def build(out: Storage) -> Built:
        rows = part_rows(tokens)
        with pipeline.progress.stage("trajectories", sum(n for _, n in rows), "examples") as bar:
            parts = build_trajectories(
                tokens.storage.sub("parts"), rows, proxy.storage, snapshots, out, _placement(pipeline).parallelism,
                on_rows=lambda rows: bar.update(advance=rows),
            )  # fmt: skip
        extra = {"parts": [[p["part"], p["rows"]] for p in parts.parts], "num_snapshots": parts.num_snapshots}
        said = f"{parts.num_examples:,} trajectories of {parts.num_snapshots} losses, none missing, none doubled"
        return Built(parts.fingerprint, {"trajectories": parts.num_examples}, extra, said=said)

    # The corpus too: the matrix carries the sources, which the tokens' fingerprint does not see.
    inputs = {s.name: s.manifest.content_fingerprint for s in (pipeline.run.stage("corpus"), tokens, proxy)}
    return pipeline.stage("trajectories", {}, inputs, build)


def clusters_stage(pipeline: Pipeline, config: S2LConfig) -> Stage:
    """The matrix → centroids and assignment."""
    from s2l_ray.clusters.actor import cluster_trajectories

    trajectories = pipeline.run.stage("trajectories")
    seed = config.seed_of("clusters")

    def build(out: Storage) -> Built:
        stats = cluster_trajectories(
            trajectories.storage, part_rows(trajectories), trajectories.manifest.extra["num_snapshots"],
            config.clusters, seed, _placement(pipeline), out,
        )  # fmt: skip
        said = f"{stats.num_clusters} clusters of {min(stats.sizes):,} to {max(stats.sizes):,} examples"
        table = out.read_bytes("assignment.parquet") if stats.num_examples < 10**6 else b""
        content = fingerprint([trajectories.manifest.content_fingerprint, stats.sizes, stats.inertia, _digest(table)])
        return Built(
            content, {"clusters": stats.num_clusters, "examples": stats.num_examples}, {"inertia": stats.inertia},
            stats.warnings, {"clusters": seed}, _placement(pipeline).device, said=said,
        )  # fmt: skip

    settings = config.clusters.model_dump(mode="json", exclude={"seed"}) | {"seed": seed}
    return pipeline.stage("clusters", settings, {"trajectories": trajectories.manifest.content_fingerprint}, build)


def _digest(data: bytes) -> str:
    import hashlib

    return hashlib.blake2b(data, digest_size=16).hexdigest()


# --- subset ---------------------------------------------------------------------------------------------------------


def _subset_sources(pipeline: Pipeline) -> Any:
    from s2l_ray.subset.build import SubsetSources

    run = pipeline.run
    corpus, trajectories = run.stage("corpus"), run.stage("trajectories")
    return SubsetSources(
        trajectories.storage,
        part_rows(trajectories),
        corpus.storage.sub("examples"),
        run.stage("clusters").storage,
        corpus.manifest.extra["format"],
    )


def _selection_inputs(pipeline: Pipeline) -> Any:
    from s2l_ray.subset.build import read_inputs

    return read_inputs(_subset_sources(pipeline))


def subset_stage(
    pipeline: Pipeline, config: S2LConfig, selector: str, budget: int | float, inputs: Any | None
) -> Stage:
    """Clusters and a budget → one subset. `inputs`: read once for many budgets; None reads them when needed."""
    from s2l_ray.subset.build import build_subset
    from s2l_ray.subset.quota import resolve_budget
    from s2l_ray.subset.selectors import SELECTORS

    run = pipeline.run
    corpus, trajectories, clusters = run.stage("corpus"), run.stage("trajectories"), run.stage("clusters")
    num_examples = trajectories.manifest.row_counts["trajectories"]
    count = resolve_budget(budget, num_examples)
    seed = config.seed_of("selection")
    stratify = config.selection.stratify and SELECTORS[selector].takes_stratify

    def build(out: Storage) -> Built:
        stats = build_subset(
            _subset_sources(pipeline), inputs or _selection_inputs(pipeline), selector, count, seed, stratify, out
        )
        said = f"{stats.num_chosen:,} of {stats.num_examples:,} examples → {out.uri}/{stats.files[0]}"
        extra = {"files": stats.files, "per_source": stats.per_source, "selector": selector, "budget": budget}
        content = fingerprint([_digest(out.read_bytes("ids.parquet"))])
        return Built(content, {"examples": stats.num_chosen}, extra, seeds={"selection": seed}, said=said)

    settings = {"selector": selector, "budget": count, "seed": seed, "stratify": stratify}
    reads: Sequence[Stage] = (corpus, trajectories, clusters)
    read = {s.name: s.manifest.content_fingerprint for s in reads}
    label = f"{selector}{'-stratified' if stratify else ''}-{budget!r}"  # 1 example and 1.0 of them all differ
    return pipeline.stage(f"subset/{label}", settings, read, build, folder=f"subset/{label}")
