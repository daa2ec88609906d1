"""Turns facts into one HTML file: text, drawings, a strict content security policy, no external resources."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup, escape

from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.look import VARIABLES
from s2l_ray.reporting.numbers import compact, figure, percent
from s2l_ray.reporting.parts import Drawing, Missing, Section, spans
from s2l_ray.reporting.sections.budgets import budgets_section
from s2l_ray.reporting.sections.clusters import clusters_section, space_section
from s2l_ray.reporting.sections.compare import subsets_section
from s2l_ray.reporting.sections.contents import contents_section
from s2l_ray.reporting.sections.cost import cost_section
from s2l_ray.reporting.sections.examples import FIRST_EXAMPLES, aside_section, examples_section
from s2l_ray.reporting.sections.gradients import gradients_section
from s2l_ray.reporting.sections.meaning import meaning_section
from s2l_ray.reporting.sections.repeat import repeat_section
from s2l_ray.reporting.sections.stability import stability_section
from s2l_ray.reporting.sections.tasks import tasks_section
from s2l_ray.reporting.sections.training import training_section
from s2l_ray.reporting.sections.worth import worth_section

MAX_PAGE_BYTES = 5_000_000
Maker = Callable[[Facts, Drawing], Section | None]

_RUN, _FINETUNE = "s2l run CONFIG", "s2l finetune RUN --full, and --budget 0.2"
_ORDER: tuple[tuple[Maker, str, str], ...] = (
    (worth_section, "What is it worth?", _FINETUNE),
    (tasks_section, "What can it do?", "s2l evaluate RUN --tasks gsm8k evaluation.data.folder=data/eval"),
    (budgets_section, "How much is enough?", "s2l sweep RUN"),
    (cost_section, "What does it cost, and when does it pay?", _RUN),
    (contents_section, "What does the subset contain?", "s2l select RUN --budget 0.2"),
    (clusters_section, "Why these examples?", _RUN),
    (space_section, "Where in trajectory space?", _RUN),
    (meaning_section, "Do clusters mean something?", f"{_RUN}, with a corpus of several sources or topics"),
    (gradients_section, "Are gradients alike within clusters?", "s2l gradients RUN"),
    (stability_section, "Does it hold?", "s2l report RUN --compare OTHER_RUN, or s2l sweep RUN"),
    (training_section, "How did training go?", _RUN),
    (examples_section, "Read the examples", f"{_RUN}; then s2l report RUN without --no-text"),
    (aside_section, "What was set aside?", _RUN),
    (subsets_section, "Compare all subsets", "s2l select RUN --budget 0.2"),
    (repeat_section, "Repeat it", _RUN),
)


def make_page(facts: Facts) -> str:
    """The whole page as HTML."""
    from altair.utils.schemapi import debug_mode

    from s2l_ray.reporting.svg import to_svg

    draw = Drawing(facts, to_svg)
    with debug_mode(False):  # validating every part of every chart separately would take half of the time
        made = [(maker(facts, draw), question, command) for maker, question, command in _ORDER]
    sections = [section for section, _, _ in made if section is not None]
    missing = [Missing(question, command) for section, question, command in made if section is None]
    style, script = _style(), _file("report.js")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("s2l_ray.reporting", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    examples: list[dict[str, Any]] = next((s.content for s in sections if s.kind == "examples"), [])
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; font-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("report.html.j2").render(
        facts=facts, title=_title(facts), provenance=_provenance(facts), figures=_key_figures(facts, draw),
        warnings=_warnings(facts), sections=sections, missing=missing, policy=Markup(policy), style=Markup(style),
        script=Markup(script), markdown=_markdown(facts, draw), safe=Markup, widths=spans, emphasised=_emphasised,
        num_first=FIRST_EXAMPLES, examples=Markup(_json(examples[FIRST_EXAMPLES :])),
        sources=sorted({e["source"] for e in examples}), clusters=sorted({e["cluster"] for e in examples}),
    )  # fmt: skip


def _emphasised(line: str) -> Markup:
    """A sentence of the verdict, its words in bold."""
    words = r"\b(better|worse|cannot be distinguished|too few to tell)\b"
    return Markup(re.sub(words, r"<strong>\1</strong>", str(escape(line))))


def _file(name: str) -> str:
    return resources.files("s2l_ray.reporting").joinpath(name).read_text(encoding="utf-8")


def _style() -> str:
    """The style sheet, with the colours of `look` in front."""
    light = "".join(f"--{name}:{colour};" for colour, (name, _) in VARIABLES.items())
    dark = "".join(f"--{name}:{colour};" for name, colour in VARIABLES.values())
    return (
        f":root{{{light}color-scheme:light}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}color-scheme:dark}}}}\n"
        f"@media screen{{:root[data-theme=dark]{{{dark}color-scheme:dark}}}}\n"
        + "".join(f".{name}{{color:var(--{name})}}" for name, _ in VARIABLES.values())
        + "\n"
        + _file("report.css")
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(data: Any) -> str:
    """JSON for a script element, such that nothing in it can end the element or a line of JavaScript."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028"),
                            ("\u2029", "\\u2029")):  # fmt: skip
        text = text.replace(character, code)
    return text


def _title(facts: Facts) -> str:
    if facts.num_examples is None:
        return f"{facts.name}: not finished"
    return f"{facts.name}: which part of {facts.num_examples:,} examples is worth training on?"


def _provenance(facts: Facts) -> list[str]:
    parts = [f"s2l_ray {facts.version}" if facts.version else "", facts.finished_at[:10], f"seed {facts.seed}"]
    if facts.num_snapshots is not None:
        parts.append(f"{facts.num_snapshots} snapshots")
    if facts.num_clusters is not None:
        parts.append(f"{facts.num_clusters} clusters")
    parts += [
        f"reference model: {facts.proxy}" if facts.proxy else "",
        f"target: {facts.target}" if facts.target else "",
    ]
    return [part for part in parts if part]


def _key_figures(facts: Facts, draw: Drawing) -> list[tuple[str, str]]:
    """At most five key figures, as (number, what it is)."""
    found: list[tuple[str, str]] = []
    main = next((s for s in facts.subsets if s.label == facts.main), None)
    if main is not None:
        found.append((f"{main.num_examples:,}", f"examples chosen ({draw.name(main.label)})"))
    if facts.worth is not None and main is not None:
        metric = facts.worth.metrics[-1]
        for held_out in facts.worth.sets[:2]:
            values = {s.label: s.estimate.value for s in facts.worth.scores
                      if (s.metric, s.heldout_set, s.source) == (metric.key, held_out, None)}  # fmt: skip
            if main.label in values:
                beside = f" (full data {figure(values['full'], metric)})" if "full" in values else ""
                found.append((figure(values[main.label], metric), f"{metric.label}, {held_out}{beside}"))
    if facts.cost is not None and facts.cost.selection_share is not None:
        spent = compact(facts.cost.selection_flops)
        found.append((percent(facts.cost.selection_share), f"of a full target’s FLOPs to select once ({spent})"))
    if facts.set_aside is not None:
        counts = dict(facts.set_aside.counts)
        found.append((f"{counts['unusable rows'] + counts.get('not renderable', 0):,}",
                      f"rows unusable · {counts['exact duplicates']:,} duplicates"))  # fmt: skip
    return found[:5]


def _warnings(facts: Facts) -> list[str]:
    warnings = list(facts.warnings)
    if facts.worth is None and facts.subsets:
        warnings.append("No target has been evaluated, so nothing says what the subsets are worth; see s2l finetune.")
    if facts.worth is not None and facts.worth.num_seeds == 1:
        warnings.append("One seed: how much results vary between seeds is unknown.")
    if facts.worth is not None and not facts.worth.differences:
        warnings.append("Only one target was trained, so nothing can be compared; train another with s2l finetune.")
    if facts.examples:
        warnings.append(
            f"The text of {len(facts.examples):,} examples is inside this file (leave it out with --no-text)."
        )
    return warnings


def _markdown(facts: Facts, draw: Drawing) -> str:
    """Verdict and table as Markdown, to paste into a ticket."""
    lines = [f"**{_title(facts)}**", "", *(f"- {line}" for line in facts.verdict)]
    section = subsets_section(facts, draw)
    if section is not None:
        table = section.content["subsets"]
        lines += ["", "| " + " | ".join(table.headings) + " |", "|" + " --- |" * len(table.headings)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"
