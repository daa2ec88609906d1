"""The lines at the end of a run: what was done and where the result is, for a stranger."""

from __future__ import annotations

from s2l_ray.artifacts.models import HeldOutArtifact, ProxyArtifact, SubsetArtifact, TargetArtifact
from s2l_ray.artifacts.run import STAGES, Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.observability.progress import format_count, format_duration
from s2l_ray.text.display import aligned, printable


def summary_lines(run: Run) -> list[str]:
    """About ten lines."""
    corpus, tokens, proxy = run.stage("corpus"), run.stage("tokens"), run.stage("proxy")
    counts, made = corpus.manifest.row_counts, ProxyArtifact.of(proxy)
    seconds = sum(s.manifest.wall_seconds for s in run.stages.values() if not s.reused)
    clusters = run.stage("clusters").manifest.row_counts["clusters"]
    bad = counts["quarantined"] + tokens.manifest.row_counts["quarantined"]
    lines = [
        "",
        f"Done in {format_duration(seconds)}: {run.config.name}",
        f"  Read      {counts['examples']:,} examples ({counts['duplicates']:,} exact duplicates found, "
        f"{bad:,} unusable rows set aside).",
        f"  Trained   a small proxy model ({format_count(made.summary['num_parameters'])} parameters) on all of them "
        f"and noted every example's loss {len(made.snapshots)} times.",
        f"  Grouped   examples whose loss falls alike into {clusters} clusters, and drew evenly from them (s2l):",
    ]
    lines[-2:-2] = cut_lines(run)
    by_selector: dict[str, list[Stage]] = {}
    for stage in run.subsets.values():
        by_selector.setdefault(SubsetArtifact.of(stage).selector, []).append(stage)
    for selector, stages in by_selector.items():
        sizes = ", ".join(f"{s.manifest.row_counts['examples']:,}" for s in stages)
        where = f"{run.uri}/subset/{selector}-*/" if len(stages) > 1 else f"{stages[0].storage.uri}/"
        lines.append(f"    {selector:<18} {sizes} examples: {where}{SubsetArtifact.of(stages[0]).files[0]}")
    if run.targets:
        return [*map(printable, lines), *target_lines(run), f"  Look at it:    s2l inspect {printable(run.uri)}"]
    lines += [
        "  Train on an s2l file instead of the whole corpus (a Parquet copy is beside it); random* are yardsticks.",
        f"  Look at it:    s2l inspect {run.uri}",
        f"  Another size:  s2l select {run.uri} --budget 0.3",
    ]
    return [printable(line) for line in lines]


def cut_lines(run: Run) -> list[str]:
    """How many examples were cut at which length, of each stage in which some were."""
    told = []
    for name, stage in run.stages.items():
        is_tokens = name == "tokens" or name.startswith("target-tokens/")
        cut = {name: stage.manifest.row_counts.get("cut", 0)} if is_tokens else {}
        if name == "heldout":
            cut = {f"heldout: {of}": count for of, count in HeldOutArtifact.of(stage).cut.items()}
        length = stage.manifest.settings.get("max_length")
        told += [f"{count:,} at {length} tokens ({of})" for of, count in cut.items() if count]
    if not told:
        return []
    return [f"  Cut       examples that were longer than max_length: {', '.join(told)}."]


def target_lines(run: Run) -> list[str]:
    """The fine-tuned targets side by side: what each was trained on, for how long, and how good it is."""
    made = {name: TargetArtifact.of(stage) for name, stage in run.targets.items()}
    sets = list(dict.fromkeys(n for target in made.values() for n in target.evaluation))
    rows = [["trained on", "examples", "steps", "tokens", "time", *(f"{n}: loss, exact match" for n in sets)]]
    for name, stage in run.targets.items():
        manifest, summary, results = stage.manifest, made[name].summary, made[name].evaluation
        figures = [results[n]["after"] if n in results else None for n in sets]
        rows.append(
            [
                name,
                f"{manifest.row_counts['examples']:,}",
                f"{summary['steps']:,}",
                format_count(summary["tally"]["tokens"]),
                format_duration(manifest.wall_seconds),
                *("" if f is None else f"{f['micro']:.3f}  {f['exact_match']:6.1%}" for f in figures),
            ]
        )
    lines = ["  Fine-tuned the target; loss in nats per response token on examples that no model was trained on:"]
    lines += ["    " + line for line in aligned(rows)]
    selecting = sum(run.stages[n].manifest.wall_seconds for n in STAGES[1:] if n in run.stages)
    return [
        *lines,
        f"  (time: a target with its evaluations; the selection before it took {format_duration(selecting)}, once)",
        f"  The models:    {printable(run.uri)}/target/*/model (from_pretrained loads them)",
    ]
