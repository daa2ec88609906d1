"""The model card of an exported target."""

from __future__ import annotations

import re
from typing import Any

import yaml

from s2l_ray.artifacts.models import SubsetArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.target import TargetConfig
from s2l_ray.text.display import printable
from s2l_ray.text.redact import strip_credentials

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


def model_card(run: Run, name: str, target: TargetConfig, subset: Stage | None, facts: dict[str, Any]) -> str:
    """The card as Markdown with the hub's metadata header.

    Args:
        facts: rows of the card's table on the training, in their order.
    """
    corpus = run.stage("corpus").manifest
    base = strip_credentials(target.model or "") or f"{(target.from_config or {}).get('model_type')} from scratch"
    head: dict[str, Any] = {"library_name": "transformers", "tags": ["s2l_ray", "s2l", "data-selection"]}
    if target.model and _HUB_ID.fullmatch(target.model):
        head["base_model"] = target.model
    lines = [
        "---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True) + "---", "",
        f"# {markdown(run.config.name)}: target fine-tuned on {markdown(name)}", "",
        "Fine-tuned with [s2l_ray](https://arxiv.org/abs/2403.07384) on "
        + ("the full data." if subset is None else "a selected subset of the data."), "",
        "| what | value |", "|---|---|",
        f"| base | {markdown(base + (f' @ {target.revision}' if target.revision else ''))} |",
        f"| corpus | {markdown(_corpus(run))}: {corpus.row_counts['examples']:,} examples, "
        f"content `{corpus.content_fingerprint}` |",
    ]  # fmt: skip
    if subset is not None:
        manifest, chosen = subset.manifest, SubsetArtifact.of(subset)
        lines += [
            f"| selection | {markdown(chosen.selector)}, budget {chosen.budget} = "
            f"{manifest.row_counts['examples']:,} examples, seed {manifest.seeds['selection']}, "
            f"content `{manifest.content_fingerprint}` |",
        ]
    lines += [f"| {markdown(key)} | {markdown(str(value))} |" for key, value in facts.items()]
    lines += ["", "Held-out losses are in the run's folder `heldout_evaluation/`.", ""]
    return "\n".join(lines)


def _corpus(run: Run) -> str:
    corpus = run.config.corpus
    if corpus.quickstart is not None:
        return "the built-in quickstart corpus"
    if corpus.huggingface is not None:
        return strip_credentials(corpus.huggingface.name)
    return ", ".join(strip_credentials(p) for p in corpus.paths)


def markdown(text: str) -> str:
    """Escape foreign text for a line or a table's cell: it becomes one line without special characters."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&$@:^])", r"\\\1", printable(text))
