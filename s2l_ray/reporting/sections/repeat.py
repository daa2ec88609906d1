"""The section “Repeat it”."""

from __future__ import annotations

from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.parts import Drawing, Section, Table
from s2l_ray.text.formats import format_duration


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
        "versions": versions, "files": repeat.files, "uri": facts.uri, "first_file": repeat.first_file,
    }  # fmt: skip
    how = "Times include the machine’s other load; finished stages are never repeated."
    return Section("repeat", "Repeat it", how, [], "repeat", content)
