"""Compare all subsets, and repeat it."""

from __future__ import annotations

from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.numbers import compact, figure, percent
from s2l_ray.reporting.parts import Drawing, Section, Table
from s2l_ray.text.formats import format_duration


def subsets_section(facts: Facts, draw: Drawing) -> Section | None:
    if not facts.subsets:
        return None
    worth, overlap = facts.worth, facts.stability.overlap if facts.stability else None
    keys = [(m, s) for m in worth.metrics for s in worth.sets] if worth else []
    headings = ["subset", "examples", "share", *(f"{m.label}, {s}" for m, s in keys), "target’s FLOPs"]
    shows_overlap = overlap is not None and facts.main in overlap.labels
    headings += [f"in common with {draw.name(facts.main or '')}"] if shows_overlap else []
    rows = []
    models = {m.label: m for m in worth.models} if worth else {}
    for label in dict.fromkeys([*models, *(s.label for s in facts.subsets)]):
        size = next(((s.num_examples, s.share) for s in facts.subsets if s.label == label), None)
        if size is None:
            size = (models[label].num_examples, models[label].share)
        cells = []
        for metric, held_out in keys:
            found = [s for s in worth.scores if (s.metric, s.heldout_set, s.label, s.source) ==
                     (metric.key, held_out, label, None)] if worth else []  # fmt: skip
            cells.append(figure(found[0].estimate.value, metric) if found else "")
        flops = compact(models[label].flops) if label in models else ""
        common = []
        if shows_overlap and overlap is not None:
            i = overlap.labels.index(facts.main or "")
            common = [percent(overlap.matrix[i][overlap.labels.index(label)]) if label in overlap.labels else ""]
        rows.append([draw.name(label), f"{size[0]:,}", percent(size[1]), *cells, flops, *common])
    how = "All subsets of this run. Which differences are more than chance stands under “What is it worth?”."
    return Section("subsets", "Compare all subsets", how, [], "subsets", Table(headings, rows))


def repeat_section(facts: Facts, draw: Drawing) -> Section | None:
    repeat = facts.repeat
    if repeat is None:
        return None
    stages = [
        [s.name, s.folder, s.fingerprint[:12], s.device, format_duration(s.wall_seconds),
         format_duration(s.device_seconds), ", ".join(f"{k} {v}" for k, v in s.seeds.items()),
         s.finished_at[:16].replace("T", " ")]
        for s in repeat.stages
    ]  # fmt: skip
    headings = ["stage", "folder", "content", "device", "wall time", "device time", "seeds", "finished (UTC)"]
    versions = ", ".join(f"{name} {version}" for name, version in repeat.versions.items())
    content = {
        "command": repeat.command, "changed": repeat.changed, "stages": Table(headings, stages, 4),
        "versions": versions, "files": repeat.files, "uri": facts.uri,
    }  # fmt: skip
    how = "Times were measured under whatever else the machine did; finished stages are never repeated."
    return Section("repeat", "Repeat it", how, [], "repeat", content)
