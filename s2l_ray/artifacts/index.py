"""Index of the artifacts that belong to a run, derived from the manifests in its folder, not from one process's memory.

Artifacts name their inputs by content, so the manifests alone determine the chain corpus → … → clusters (chain.py) and
the subsets and targets made from it.

Several artifacts may have the same name: `s2l-0.11` chosen with another seed, a target of another model. The run uses
the one with the configuration's settings or, if there are several or none, the one finished last. The others are kept
separately, under the names of their folders.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from s2l_ray.artifacts.chain import is_complete
from s2l_ray.artifacts.found import Chain, Found, follows, found_of_kind, matches, read_found
from s2l_ray.artifacts.models import TargetArtifact, replay_of
from s2l_ray.config.evaluation import BASE, OTHER_MODEL
from s2l_ray.config.schema import S2LConfig
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage

FULL = "full"
EVALUATION = "heldout_evaluation"
"""Kind of the stages that score held-out sets."""

_OF_CHAIN = ("signals", "gradients", "gradient-check", "subset", "tokens", "heldout", "target", EVALUATION)

Recipe = tuple[str, frozenset[str]]
"""How a target was made except for seeds, and how the subsets with its examples were made except for seeds."""


@dataclass
class Index:
    """Artifacts that belong to a run."""

    stages: dict[str, Found]
    """Name → artifact, in the order of the work."""
    others: list[Found] = field(default_factory=list)
    """Subsets and targets of the same chain that share a name with one in `stages`."""
    recipes: dict[str, Recipe] = field(default_factory=dict)
    """Folder of a target → what it has in common with targets that differ only by seeds."""


def find_index(storage: Storage, config: S2LConfig, chain: Chain, warnings: list[str]) -> Index:
    """Return the index of `chain` and of the subsets and targets made from it."""
    index = Index(dict(chain))
    if not is_complete(chain):
        return index
    kinds = {kind: found_of_kind(storage, kind, warnings) for kind in _OF_CHAIN}
    subsets = [s for s in kinds["subset"] if follows(s, chain, *_read_of_chain(s))]
    best = _best_of_each(subsets, lambda one: matches(one, config))
    tokens = _tokens_by_label(kinds["tokens"], subsets, chain)
    targets = [t for t in kinds["target"] if _tokens_of(t, tokens) and not _is_earlier(storage, t, warnings)]

    by_folder = {subset.folder.removeprefix("subset/"): subset for subset in subsets} | best

    def fitness(target: Found) -> tuple[bool, bool]:
        subset = by_folder.get(target.label)
        fits = subset is None or _is_trained_on(target, subset, _tokens_of(target, tokens))
        return fits, matches(target, config)

    best_targets = _best_of_each(targets, fitness)
    for signal in kinds["signals"]:
        # The target's signals do not depend on the proxy.
        reads = ("corpus",) if "target" in signal.manifest.inputs else ("tokens", "proxy")
        if follows(signal, chain, *reads):
            index.stages[signal.manifest.stage] = signal
    _add_gradients(index, kinds, chain)
    for label in _ordered(best, config.subset_budgets()):
        index.stages[f"subset/{label}"] = best[label]
    evaluations = _best_evaluations(kinds, config)
    for label in _ordered(best_targets, config.target_subsets()):  # in the order in which they are made
        target = best_targets[label]
        evaluation = evaluations.get(target.content)
        evaluated = {} if evaluation is None else _evaluation_stages(label, evaluation, kinds)
        index.stages[f"target-tokens/{label}"] = _own_tokens(target, by_folder.get(label), _tokens_of(target, tokens))
        index.stages |= {"heldout": evaluated.pop("heldout")} if "heldout" in evaluated else {}
        index.stages[f"target/{label}"] = target
        index.stages |= evaluated
    for found in _evaluations(storage, config, index, chain, warnings):
        index.stages[found.manifest.stage] = found
    chosen = {found.folder for found in index.stages.values()}
    others = [found for found in subsets + targets if found.folder not in chosen]
    index.recipes = {one.folder: _recipe(one, subsets, tokens) for one in targets}
    index.others = others + [evaluations[one.content] for one in others if one.content in evaluations]
    return index


def _add_gradients(index: Index, kinds: dict[str, list[Found]], chain: Chain) -> None:
    """Add the gradient check finished last with the gradients it read, or without one the gradients finished last."""
    made = {one.content: one for one in kinds["gradients"] if follows(one, chain, "tokens", "proxy", "clusters")}
    checks = [one for one in kinds["gradient-check"] if one.manifest.inputs.get("gradients") in made]
    if checks:
        index.stages["gradients"] = made[checks[-1].manifest.inputs["gradients"]]
        index.stages["gradient-check"] = checks[-1]
    elif made:
        index.stages["gradients"] = list(made.values())[-1]


def _evaluations(storage: Storage, config: S2LConfig, index: Index, chain: Chain, warnings: list[str]) -> list[Found]:
    """Return evaluations of the targets in the index and of other models: one for each model and task, preferring the
    one with the configuration's settings, then the one finished last."""
    form = None if config.evaluation is None else config.evaluation.form
    found = []
    for one in found_of_kind(storage, "evaluation", warnings):
        model = one.label.partition("/")[0]
        target = index.stages.get(f"target/{model}")
        is_of_this = target is not None and target.content == one.manifest.inputs.get("model")
        if target is None:
            is_of_this = model == BASE or model.startswith(OTHER_MODEL)
        if is_of_this and one.manifest.inputs.get("corpus") == chain["corpus"].content:
            found.append(one)
    best = _best_of_each(found, lambda one: one.manifest.settings.get("form") == form)
    return [best[label] for label in sorted(best)]


def _best_evaluations(kinds: dict[str, list[Found]], config: S2LConfig) -> dict[str, Found]:
    """Map the content of targets to their evaluations, preferring the configuration's held-out sets, then the last."""
    names = {one.content: sorted(one.manifest.settings.get("names", [])) for one in kinds["heldout"]}
    wanted = sorted(config.heldout.names(config.corpus.quickstart is not None))
    best: dict[str, Found] = {}
    for evaluation in kinds[EVALUATION]:
        read = evaluation.manifest.inputs
        before = best.get(read.get("target", ""))
        is_wanted = names.get(read.get("heldout", "")) == wanted
        if "target" in read and (before is None or is_wanted or names.get(before.manifest.inputs["heldout"]) != wanted):
            best[read["target"]] = evaluation
    return best


def _evaluation_stages(label: str, evaluation: Found, kinds: dict[str, list[Found]]) -> dict[str, Found]:
    """Return the evaluation and the stages from which it was made, except the target."""
    read = evaluation.manifest.inputs
    stages: dict[str, Found] = {}
    for name, kind in (("heldout", "heldout"), (f"{EVALUATION}/base", EVALUATION)):
        found = [one for one in kinds[kind] if one.content == read.get(name.rpartition("/")[2])]
        stages |= {name: found[-1]} if found else {}
    return stages | {f"{EVALUATION}/{label}": evaluation}


def earlier_targets(storage: Storage, label: str) -> list[str]:
    """Return a sentence for each target of this name that an earlier version made and that cannot be used."""
    warnings: list[str] = []
    names = [name for name in storage.folders("target") if name.rpartition("-")[0] == label]
    for found in read_found(storage, [f"target/{name}" for name in names], []):
        if found is not None:
            _is_earlier(storage, found, warnings)
    return warnings


def _is_earlier(storage: Storage, target: Found, warnings: list[str]) -> bool:
    """Whether the target contains its evaluation, as in earlier versions; if so, adds a warning that it is ignored."""
    if not TargetArtifact.is_earlier(target.manifest):
        return False
    warnings.append(
        f"{storage.uri_of(target.folder)} is left out: it was trained by an earlier s2l_ray, which kept the held-out "
        "figures in the target itself. Its model is intact, but it has no evaluation that could be compared: `s2l "
        "finetune` or `s2l run` trains a new target next to it, or continue with the s2l_ray that made it"
    )
    return True


def _read_of_chain(subset: Found) -> list[str]:
    """Return the stages from which a subset must have been made; clusters only if its selector reads them."""
    return ["corpus", "trajectories", *(["clusters"] if "clusters" in subset.manifest.inputs else [])]


def _best_of_each(found: list[Found], fitness: Any) -> dict[str, Found]:
    """Map labels to the fittest artifact with that label, on ties the one finished last (as `found` is sorted)."""
    best: dict[str, Found] = {}
    for one in found:
        if one.label not in best or fitness(one) >= fitness(best[one.label]):
            best[one.label] = one
    return best


def _ordered(labels: Iterable[str], configured: Iterable[str]) -> list[str]:
    """Order labels: those of the configuration first, in its order."""
    there = set(labels)
    return list(dict.fromkeys([name for name in configured if name in there] + sorted(there)))


def _tokens_by_label(tokens: list[Found], subsets: list[Found], chain: Chain) -> dict[str, list[Found]]:
    """Map labels of subsets, and names of their folders, to their tokens, by whatever tokenizers."""
    of_corpus = [t for t in tokens if t.manifest.inputs.get("corpus") == chain["corpus"].content]
    by_label = {FULL: [t for t in of_corpus if "subset" not in t.manifest.inputs]}
    for subset in subsets:
        made = [t for t in of_corpus if t.manifest.inputs.get("subset") == subset.content]
        for label in (subset.label, subset.folder.removeprefix("subset/")):
            by_label.setdefault(label, []).extend(made)
    return by_label


def _tokens_of(target: Found, tokens: dict[str, list[Found]]) -> list[Found]:
    """Return the tokens on which the target was trained; [] if they do not belong to this chain."""
    return [t for t in tokens.get(target.label, []) if t.content == target.manifest.inputs.get("tokens")]


def _is_trained_on(target: Found, subset: Found, tokens: list[Found]) -> bool:
    """Whether the target was trained on these examples with this subset's weights and stages; a subset with other
    weights has the same ids, and so the same tokens."""
    marks, read = subset.manifest.extra, target.manifest.inputs
    staged = marks.get("stages") is not None
    if not (marks.get("weighted") or staged):
        return "subset" not in read and any(t.manifest.inputs.get("subset") == subset.content for t in tokens)
    if staged and target.manifest.settings.get("replay") != replay_of(marks.get("options", {})):
        return False
    return read.get("subset") == subset.content


def _recipe(target: Found, subsets: list[Found], tokens: dict[str, list[Found]]) -> Recipe:
    read = {name: of for name, of in target.manifest.inputs.items() if name not in ("tokens", "subset")}
    own = _tokens_of(target, tokens)
    chosen = [s for s in subsets if target.label in (s.label, s.folder.removeprefix("subset/"))]
    made_of = {fingerprint(_but_seed(s)) for s in chosen if _is_trained_on(target, s, own)}
    return fingerprint([target.manifest.stage, _but_seed(target), read]), frozenset(made_of)


def _but_seed(found: Found) -> dict[str, Any]:
    return {name: value for name, value in found.manifest.settings.items() if name != "seed"}


def _own_tokens(target: Found, subset: Found | None, tokens: list[Found]) -> Found:
    """Return, among tokens with the same content, those that were made for this target."""
    made_for = target.manifest.inputs.get("subset") or (subset.content if subset else None)
    return next((t for t in reversed(tokens) if t.manifest.inputs.get("subset") == made_for), tokens[-1])
