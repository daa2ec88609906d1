"""Dataset and model cards for pushing subsets and targets to the Hugging Face hub."""

from __future__ import annotations

import posixpath
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, ModelCard

from s2l_ray.artifacts.models import ProxyArtifact
from s2l_ray.artifacts.results import Subset, Target
from s2l_ray.artifacts.run import Run
from s2l_ray.stages.target.card import markdown
from s2l_ray.text.redact import strip_credentials

_PAPER = "https://arxiv.org/abs/2403.07384"
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
          (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))  # fmt: skip
_COLUMNS = """\
| `s2l_id` | the example's id, a hash of its content |
| `s2l_cluster` | its cluster |
| `s2l_rank` | its rank within the group it was drawn from |
| `s2l_loss_first`, `s2l_loss_last` | its loss at the proxy's first and last snapshot (nats per token) |"""


def dataset_card(run: Run, subset: Subset, data_files: str) -> DatasetCard:
    """The dataset card of a pushed subset.

    Args:
        data_files: a pattern for the Parquet files in the repository.
    """
    size = next((name for limit, name in _SIZES if subset.num_examples < limit), "1B<n<10B")
    source = run.config.corpus.huggingface
    data = DatasetCardData(
        pretty_name=f"{run.config.name}: {subset.label}", size_categories=size,
        tags=["s2l_ray", "s2l", "data-selection"],
        source_datasets=[strip_credentials(source.name)] if source is not None and _on_hub(source.name) else None,
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": data_files}]}],
    )  # fmt: skip
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(_dataset_lines(run, subset)) + "\n")


def _dataset_lines(run: Run, subset: Subset) -> list[str]:
    corpus, manifest = run.stage("corpus").manifest, subset.manifest
    total = corpus.row_counts["examples"]
    settings = manifest.settings
    lines = [
        f"# {markdown(run.config.name)}: {markdown(subset.label)}", "",
        f"{subset.num_examples:,} of {total:,} fine-tuning examples ({subset.num_examples / total:.1%}), selected with "
        f"[S2L]({_PAPER}) by s2l_ray {markdown(manifest.versions.get('s2l_ray', ''))}.", "",
        "## How they were selected", "", "| what | value |", "|---|---|",
        f"| corpus | {markdown(_corpus(run))}; content `{corpus.content_fingerprint}` |",
        f"| selector | {markdown(str(settings['selector']))}, seed {manifest.seeds.get('selection')} |",
        *_proxy_lines(run),
        f"| subset | content `{manifest.content_fingerprint}` |", "",
        "## Columns", "",
        "The rows keep the corpus's columns. Also added:", "", "| column | meaning |", "|---|---|", _COLUMNS, "",
    ]  # fmt: skip
    if len(subset.per_source) > 1:
        lines += ["## Sources", "", "| source | examples |", "|---|---|"]
        lines += [f"| {markdown(name or '(none)')} | {count:,} |" for name, count in subset.per_source.items()]
        lines.append("")
    return [*lines, "The licence is that of the corpus.", ""]


def _proxy_lines(run: Run) -> list[str]:
    """Lines on the run's proxy and clusters, even if the selector needs neither: it is compared with those that do."""
    proxy, clusters = run.config.proxy, run.stage("clusters").manifest
    made = ProxyArtifact.of(run.stage("proxy"))
    base = strip_credentials(proxy.model or "") or f"{(proxy.from_config or {}).get('model_type')} from scratch"
    return [
        f"| proxy | {markdown(base)}, {made.summary['num_parameters']:,} parameters, {made.summary['steps']:,} steps |",
        f"| trajectories | {len(made.snapshots)} snapshots, {clusters.row_counts['clusters']:,} clusters |",
    ]


def _corpus(run: Run) -> str:
    """The corpus by its public name, without folders and buckets, which are private."""
    corpus = run.config.corpus
    if corpus.quickstart is not None:
        return "the built-in corpus of s2l_ray's quickstart"
    if corpus.huggingface is not None:
        name = strip_credentials(corpus.huggingface.name)
        return name if _on_hub(name) else posixpath.basename(name.rstrip("/"))
    return ", ".join(posixpath.basename(strip_credentials(path).partition("?")[0].rstrip("/")) for path in corpus.paths)


def _on_hub(name: str) -> bool:
    return name.count("/") <= 1 and not name.startswith((".", "/", "~")) and "://" not in name


def model_card(run: Run, target: Target, written: str) -> ModelCard:
    """The model card of a pushed target: the card in its folder, with its held-out losses.

    Args:
        written: content of the exported model's README.md.
    """
    card = ModelCard(written)
    lines = [line for line in card.text.strip().splitlines() if "in the run's folder" not in line]
    evaluation = target.evaluation
    if evaluation:
        lines += [
            "## Held-out examples",
            "",
            "| set | loss before | loss after | exact match after |",
            "|---|---|---|---|",
        ]
        for name, result in evaluation.items():
            before, after = result["before"], result["after"]
            cells = [_number(before, "micro"), _number(after, "micro"), _share(after)]
            lines.append(f"| {markdown(name)} | " + " | ".join(cells) + " |")
        lines += ["", "Mean loss over examples, in nats per response token.", ""]
    card.text = "\n".join(lines)
    return card


def _number(result: dict[str, Any] | None, name: str) -> str:
    return "" if result is None else f"{result[name]:.3f}"


def _share(result: dict[str, Any] | None) -> str:
    return "" if result is None else f"{result['exact_match']:.1%}"
