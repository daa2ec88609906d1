"""The model card: what a stranger must know about an exported target."""

from __future__ import annotations

from typing import Any

from s2l_ray.artifacts import Run, Stage
from s2l_ray.config.target import TargetConfig
from s2l_ray.run_folder.redact import strip_credentials


def model_card(run: Run, name: str, target: TargetConfig, subset: Stage | None, facts: dict[str, Any]) -> str:
    """Markdown with the hub's metadata head. `facts`: what was trained on and how long, in order of appearance."""
    corpus = run.stage("corpus").manifest
    base = target.model or f"{(target.from_config or {}).get('model_type')} from scratch"
    head = ["---", "library_name: transformers", "tags: [s2l_ray, s2l, data-selection]"]
    if target.model and "/" in target.model and not target.model.startswith(("/", ".")):
        head.append(f"base_model: {target.model}")
    lines = [
        *head, "---", "", f"# {run.config.name}: target fine-tuned on `{name}`", "",
        "Fine-tuned with [s2l_ray](https://arxiv.org/abs/2403.07384) on "
        + ("the full data." if subset is None else "a chosen subset of the data."), "",
        "| what | value |", "|---|---|",
        f"| base | {base}{f' @ {target.revision}' if target.revision else ''} |",
        f"| corpus | {_corpus(run)}: {corpus.row_counts['examples']:,} examples, "
        f"content `{corpus.content_fingerprint}` |",
    ]  # fmt: skip
    if subset is not None:
        manifest = subset.manifest
        lines += [
            f"| selection | {manifest.extra['selector']}, budget {manifest.extra['budget']} = "
            f"{manifest.row_counts['examples']:,} examples, seed {manifest.seeds['selection']}, "
            f"content `{manifest.content_fingerprint}` |",
        ]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    lines += ["", "Held-out losses are in `evaluations/` beside this folder's parent in the run.", ""]
    return "\n".join(lines)


def _corpus(run: Run) -> str:
    corpus = run.config.corpus
    if corpus.quickstart is not None:
        return "the embedded quickstart corpus"
    if corpus.huggingface is not None:
        return corpus.huggingface.name
    return ", ".join(strip_credentials(p) for p in corpus.paths)
