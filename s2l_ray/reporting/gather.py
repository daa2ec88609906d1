"""Gathers a run's facts from its folder. Missing parts are left out; damaged ones are listed in the page's warnings."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from s2l_ray.artifacts.run import CONFIG, Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.errors import MAX_MESSAGE
from s2l_ray.reporting import contents
from s2l_ray.reporting.answers_sweep import is_by_answers, tuned_of_answers
from s2l_ray.reporting.asked_sets import asked_sets
from s2l_ray.reporting.costs import cost_of
from s2l_ray.reporting.data_sets import data_sets
from s2l_ray.reporting.facts import Facts, GuardFacts, Quarantined, Repeat, SetAside, Stability, StageFacts
from s2l_ray.reporting.facts_contents import SubsetFacts
from s2l_ray.reporting.facts_gradients import gradient_facts
from s2l_ray.reporting.judged import gather_judged
from s2l_ray.reporting.judged_words import judged_lines
from s2l_ray.reporting.main_subset import main_subset
from s2l_ray.reporting.meaning import MeaningReader
from s2l_ray.reporting.names import model_name, names_of
from s2l_ray.reporting.overlaps import overlaps_of
from s2l_ray.reporting.rows import SOURCE, Rows, default_column
from s2l_ray.reporting.sweeps import budgets_of, read_sweep, sweep_metric, tuned_of
from s2l_ray.reporting.training import training_facts
from s2l_ray.reporting.worth import gather_worth, verdict_lines
from s2l_ray.text.display import one_line, printable

_MAX_QUARANTINED = 10
_MAX_REASONS = 20
_MAX_WARNINGS = 20
_MAX_GUARD_LINES = 15


def gather_facts(
    run: Run, *, by: str | None = None, compared: Sequence[tuple[str, Run]] = (), with_text: bool = True
) -> Facts:
    """The facts of a run, as far as it has progressed.

    Args:
        by: the column whose values label clusters and colour topics; None: the first facet, otherwise the source.
        compared: name and run whose subsets are compared with this run's.
        with_text: whether the texts of examples may be shown.

    Raises:
        UserError: the corpus has no facet `by`.
        DamagedFile, MissingFile: an artifact is not what was written.
    """
    main = main_subset(run)
    total = run.stages["trajectories"].manifest.row_counts["trajectories"] if "trajectories" in run.stages else None
    subsets = [_subset(label, stage, total or 0) for label, stage in run.subsets.items()]
    worth = gather_worth(run, main)
    names, sweep = names_of(subsets, worth), read_sweep(run)
    judged = gather_judged(run, main, names)
    made: dict[str, Any] = {
        "subsets": subsets, "main": main, "worth": worth, "judged": judged, "cost": cost_of(run, worth),
        "budgets": None if sweep is None else budgets_of(run, *sweep),
        "training": training_facts(run), "gradients": gradient_facts(run),
        "set_aside": _set_aside(run, main), "repeat": _repeat(run),
    }  # fmt: skip
    if total:
        made |= _from_rows(run, main, subsets, by, with_text, compared, sweep)
    sources = made["contents"].columns.get(SOURCE, []) if made.get("contents") else []
    smaller = made["contents"].smaller.get(SOURCE, 0) if made.get("contents") else 0
    made["data_sets"] = [*data_sets(run, total, len(sources) + smaller or None), *asked_sets(judged, run)]
    made["has_text"] = bool(made.get("examples")) or bool(made["set_aside"] and made["set_aside"].rows)
    made["verdict"] = [*verdict_lines(worth, main, names), *judged_lines(judged, main)]
    return Facts(**_head(run, total), **made)


def _from_rows(
    run: Run, main: str | None, subsets: list[SubsetFacts], by: str | None, with_text: bool, compared: Any, sweep: Any
) -> dict[str, Any]:
    """The facts that need passes over the trajectories."""
    rows = Rows(run, by)
    column = by or default_column(rows)
    labels = [subset.label for subset in rows.subsets]
    has_clusters = "clusters" in run.stages
    num_clusters = run.stages["clusters"].manifest.row_counts["clusters"] if has_clusters else 1
    meaning = MeaningReader(run)
    beside = meaning.add if has_clusters else None
    sketch = contents.sketch_rows(rows, num_clusters, labels.index(main) if main in labels else -1, beside)
    made: dict[str, Any] = {
        "contents": contents.contents_of(sketch, rows, subsets),
        "space": contents.space_of(sketch, rows),
        "examples": contents.examples_of(sketch, rows, column, with_text) if has_clusters else [],
        "stability": _stability(rows, compared, sweep),
    }
    if has_clusters:
        steps = (
            [int(s["step"]) for s in run.stages["proxy"].manifest.extra["snapshots"]] if "proxy" in run.stages else []
        )
        steps = steps if len(steps) == rows.num_snapshots else list(range(1, rows.num_snapshots + 1))
        made["clusters"] = contents.clusters_of(sketch, rows, steps, column, main if main in labels else None)
        made["meaning"] = meaning.facts(rows, sketch, column)
    return made


def _subset(label: str, stage: Stage, total: int) -> SubsetFacts:
    count = stage.manifest.row_counts["examples"]
    return SubsetFacts(
        label, printable(str(stage.manifest.extra.get("selector", ""))), count, count / max(1, total),
        stage.manifest.seeds.get("selection"),
    )  # fmt: skip


def _stability(rows: Rows, compared: Any, sweep: Any) -> Stability | None:
    overlap = overlaps_of(rows, compared)
    metric = None if sweep is None else sweep_metric(sweep[1])
    tuned = []
    if sweep is not None and metric is not None:
        tuned = tuned_of_answers(sweep[1], metric) if is_by_answers(metric) else tuned_of(sweep[0], metric)
    return Stability(metric, tuned, overlap) if tuned or overlap else None


def _head(run: Run, total: int | None) -> dict[str, Any]:
    manifests = [stage.manifest for stage in run.stages.values()]
    versions = [m.versions.get("s2l_ray", "") for m in manifests]
    warnings = [one_line(f"{name}: {w}", MAX_MESSAGE) for name, s in run.stages.items() for w in s.warnings]
    clusters = run.stages.get("clusters")
    proxy, target = run.stages.get("proxy"), next(iter(run.targets.values()), None)
    return {
        "name": run.config.name, "uri": printable(run.uri), "version": versions[-1] if versions else "",
        "finished_at": max((m.finished_at for m in manifests), default=""), "seed": run.config.seed,
        "num_examples": total, "warnings": warnings[:_MAX_WARNINGS],
        "num_snapshots": None if total is None else run.stages["trajectories"].manifest.extra["num_snapshots"],
        "num_clusters": None if clusters is None else clusters.manifest.row_counts["clusters"],
        "proxy": model_name(run.config.proxy, proxy), "target": model_name(run.config.target, target),
    }  # fmt: skip


def _set_aside(run: Run, main: str | None) -> SetAside | None:
    corpus = run.stages.get("corpus")
    if corpus is None:
        return None
    counts = corpus.manifest.row_counts
    dropped = counts["duplicates"] if run.config.corpus.duplicates == "drop" else 0
    read = counts["examples"] + dropped + counts["quarantined"] + counts["held_out"]
    fates = [("read", read), ("exact duplicates", dropped), ("unusable rows", counts["quarantined"])]
    tokens = run.stages.get("tokens")
    if tokens is not None:
        fates.append(("not renderable", tokens.manifest.row_counts["quarantined"]))
    fates.append(("held out", counts["held_out"]))
    if "trajectories" in run.stages:
        fates.append(("used", run.stages["trajectories"].manifest.row_counts["trajectories"]))
    if main is not None:
        fates.append(("chosen", run.subsets[main].manifest.row_counts["examples"]))
    reasons: Counter[str] = Counter()
    rows: list[Quarantined] = []
    for stage in (s for s in (corpus, tokens) if s is not None):
        folder = stage.storage.sub("quarantine")
        for table in folder.read_tables([e.name for e in folder.list()], ["origin", "index", "reason"]):
            for row in table.to_pylist():
                reason = one_line(row["reason"])
                reasons[reason if reason in reasons or len(reasons) < 1000 else "other reasons"] += 1
                if len(rows) < _MAX_QUARANTINED:
                    rows.append(Quarantined(stage.name, one_line(row["origin"] or ""), int(row["index"] or 0), reason))
    return SetAside(fates, reasons.most_common(_MAX_REASONS), rows, _guards(run))


def _guards(run: Run) -> list[GuardFacts]:
    """Facts on each selector's guard, which flags the same examples at every budget."""
    found: dict[str, GuardFacts] = {}
    for label, stage in run.subsets.items():
        selector = str(stage.manifest.extra.get("selector", ""))
        if stage.manifest.extra.get("guard") is None or selector in found or not stage.storage.exists("guard.json"):
            continue
        report = stage.storage.read_json("guard.json")
        lines = [
            (one_line(category), one_line(line["value"]), line["dropped"], line["size"], line["by_rule"])
            for category, values in report["tables"].items() for line in values if line["dropped"]
        ]  # fmt: skip
        lines.sort(key=lambda line: (-line[2] / line[3], line[:2]))
        found[selector] = GuardFacts(
            label, report["num_dropped"], report["num_examples"], report["dropped_by_rule"], lines[:_MAX_GUARD_LINES],
            [one_line(warning, MAX_MESSAGE) for warning in report["warnings"]],
        )  # fmt: skip
    return list(found.values())


def _repeat(run: Run) -> Repeat:
    stages = [
        StageFacts(
            printable(name), s.folder, s.manifest.content_fingerprint, printable(s.manifest.device),
            s.manifest.wall_seconds, s.manifest.device_seconds, s.manifest.seeds, s.manifest.finished_at,
        )
        for name, s in run.stages.items()
    ]  # fmt: skip
    changed = [(path, one_line(str(value), 300)) for path, value in _flat(run.config.stored(exclude_defaults=True))]
    files = [f"{s.folder}/{name}" for s in run.subsets.values() for name in s.manifest.extra.get("files", [])[:2]]
    versions = next((s.manifest.versions for s in reversed(run.stages.values())), {})
    command = f"s2l run {printable(shlex.quote(run.storage.uri_of(CONFIG)))}"
    first = printable(run.storage.uri_of(files[0])) if files else None
    return Repeat(command, changed, stages, versions, [printable(f) for f in files], first)


def _flat(tree: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """Nested settings → dotted paths."""
    found = []
    for name, value in tree.items():
        dotted = f"{path}.{name}" if path else name
        found += _flat(value, dotted) if isinstance(value, dict) and value else [(printable(dotted), value)]
    return found
