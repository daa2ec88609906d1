"""Names of subsets and models for readers."""

from __future__ import annotations

from typing import Any

from s2l_ray.artifacts.index import FULL
from s2l_ray.artifacts.stage import Stage
from s2l_ray.reporting.facts_contents import SubsetFacts
from s2l_ray.reporting.facts_worth import Worth
from s2l_ray.reporting.numbers import percent
from s2l_ray.selection import list_selectors
from s2l_ray.text.display import printable
from s2l_ray.text.formats import format_count


def selector_name(selector: str) -> str:
    if selector == FULL:
        return "full data"
    labels = {one.name: one.label for one in list_selectors()}
    return labels.get(selector, selector.replace("_", " "))


def names_of(subsets: list[SubsetFacts], worth: Worth | None) -> dict[str, str]:
    """Label → `S2L 20 %`; two that would have the same name keep their labels."""
    shares = {s.label: (s.selector, s.share) for s in subsets}
    shares |= {m.label: (m.selector, m.share) for m in (worth.models if worth else [])}
    names = {}
    for label, (selector, share) in shares.items():
        stratified = ", stratified" if "-stratified" in label else ""
        names[label] = "full data" if selector == FULL else f"{selector_name(selector)} {percent(share)}{stratified}"
    doubled = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {label: label if name in doubled else name for label, name in names.items()}


def model_name(config: Any, stage: Stage | None) -> str:
    """`EleutherAI/pythia-70m (70.4M parameters)`; empty if no model is configured."""
    if config is None:
        return ""
    name = config.model or f"{(config.from_config or {}).get('model_type', 'a model')} from scratch"
    size = "" if stage is None else f" ({format_count(stage.manifest.extra['summary']['num_parameters'])} parameters)"
    return printable(str(name)) + size
