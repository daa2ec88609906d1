"""Which artifacts belong to a run: found in the manifests of its folder, not in what one process remembers.

Artifacts name their inputs by content, so the chain corpus → … → clusters and the subsets and targets made from it can
be told from the manifests alone. `run.json` only notes which chain was completed last, and spares a look at the others;
without it, or with a damaged one, the chain is the one whose settings are the configuration's.

Several artifacts may have one name: `s2l-0.11` chosen with another seed, a target of another model. The run's is the
one whose settings are the configuration's; of several, or if none is, the one finished last. The others are kept apart,
under the names of their folders.

Cost: a listing of each kind's folder and one small read a manifest, 16 at a time. Only where the noted chain is not the
configuration's are all manifests of corpora, tokens, proxies, trajectories and clusters read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from s2l_ray.artifacts.manifest import ManifestError, StageManifest, read_manifest
from s2l_ray.artifacts.models import TargetArtifact, replay_of
from s2l_ray.config.corpus import LATER_SETTINGS
from s2l_ray.config.evaluation import BASE, OTHER_MODEL
from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import UserError
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage

NOTE = "run.json"
FULL = "full"
EVALUATION = "heldout_evaluation"
"""Kind of the stages that score held-out sets."""

READS: dict[str, tuple[str, ...]] = {
    "corpus": (),
    "tokens": ("corpus",),
    "proxy": ("tokens",),
    "trajectories": ("corpus", "tokens", "proxy"),
    "clusters": ("trajectories",),
}
"""Stages that every subset of a run is made from, in their order, and what each reads of the others."""

_READERS = 16
_OF_CHAIN = ("signals", "gradients", "gradient-check", "subset", "tokens", "heldout", "target", EVALUATION)
_EARLIER_TRAJECTORIES = {"source": "snapshots"}
"""What a proxy's settings do not name was so."""
_NAMED = ("subset/", "target/", "heldout_evaluation/", "generation/", "evaluation/")
"""Folders that are called by a name and a part of the key."""


@dataclass(frozen=True)
class Found:
    """A complete artifact."""

    folder: str
    """Relative to the run's folder."""
    manifest: StageManifest

    @property
    def content(self) -> str:
        return self.manifest.content_fingerprint

    @property
    def label(self) -> str:
        """`s2l-0.11`, of a subset as of the target trained on it."""
        return self.manifest.stage.partition("/")[2]


Chain = dict[str, Found]
Recipe = tuple[str, frozenset[str]]
"""How a target was made but for seeds, and the subsets with its examples likewise."""


@dataclass
class Index:
    """What belongs to a run."""

    stages: dict[str, Found]
    """Name → artifact, in the order of the work."""
    others: list[Found] = field(default_factory=list)
    """Subsets and targets of the same chain, each with the name of one in `stages`."""
    recipes: dict[str, Recipe] = field(default_factory=dict)
    """Folder of a target → what targets that differ by seeds alone have in common."""


def find_chain(storage: Storage, config: S2LConfig, warnings: list[str]) -> Chain:
    """The chain of this configuration, as far as it is complete; else, with a warning, the one completed last.

    Args:
        warnings: told what is damaged or missing, and what is taken instead.
    """
    note, problem = _read_note(storage)
    manifests = _read(storage, note.values(), warnings)
    noted = {name: found for name, found in zip(note, manifests, strict=True) if found is not None}
    if is_complete(noted) and is_configured(noted, config):
        return noted
    kinds = {name: _of_kind(storage, name, warnings) for name in READS}
    chains = _complete_chains(kinds)
    if not chains:
        return _begun_chain(kinds, config)
    best = max(chains, key=lambda chain: _rank(chain, config, noted))
    if not is_configured(best, config):
        warnings.append(
            f"{storage.uri}: the selection with the settings of its configuration is not complete; the one finished "
            f"{best['clusters'].manifest.finished_at} is taken instead ({best['clusters'].folder})"
        )
    elif problem or len(noted) < len(READS):
        warnings.append(
            f"{storage.uri}/{NOTE} {problem or 'names what is not there'}; the run's stages were found by their "
            "manifests"
        )
    return best


def find_index(storage: Storage, config: S2LConfig, chain: Chain, warnings: list[str]) -> Index:
    """`chain`, and the subsets and targets that were made from it."""
    index = Index(dict(chain))
    if not is_complete(chain):
        return index
    kinds = {kind: _of_kind(storage, kind, warnings) for kind in _OF_CHAIN}
    subsets = [s for s in kinds["subset"] if _follows(s, chain, *_read_of_chain(s))]
    best = _best_of_each(subsets, lambda one: _matches(one, config))
    tokens = _tokens_by_label(kinds["tokens"], subsets, chain)
    targets = [t for t in kinds["target"] if _tokens_of(t, tokens) and not _is_earlier(storage, t, warnings)]

    by_folder = {subset.folder.removeprefix("subset/"): subset for subset in subsets} | best

    def fitness(target: Found) -> tuple[bool, bool]:
        subset = by_folder.get(target.label)
        fits = subset is None or _is_trained_on(target, subset, _tokens_of(target, tokens))
        return fits, _matches(target, config)

    best_targets = _best_of_each(targets, fitness)
    for signal in kinds["signals"]:
        # Of the target they do not depend on the proxy.
        reads = ("corpus",) if "target" in signal.manifest.inputs else ("tokens", "proxy")
        if _follows(signal, chain, *reads):
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
    """The check finished last, and the gradients that it has read; without one, the gradients finished last."""
    made = {one.content: one for one in kinds["gradients"] if _follows(one, chain, "tokens", "proxy", "clusters")}
    checks = [one for one in kinds["gradient-check"] if one.manifest.inputs.get("gradients") in made]
    if checks:
        index.stages["gradients"] = made[checks[-1].manifest.inputs["gradients"]]
        index.stages["gradient-check"] = checks[-1]
    elif made:
        index.stages["gradients"] = list(made.values())[-1]


def _evaluations(storage: Storage, config: S2LConfig, index: Index, chain: Chain, warnings: list[str]) -> list[Found]:
    """Of the targets in the index, and of models that are no part of the run: one for each model and task, the one
    with the configuration's settings before others, and the one finished last before earlier ones."""
    form = None if config.evaluation is None else config.evaluation.form
    found = []
    for one in _of_kind(storage, "evaluation", warnings):
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
    """Content of a target → its evaluation: of several the one on the configuration's held-out sets, else the last."""
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
    """The evaluation and what it was made from besides the target."""
    read = evaluation.manifest.inputs
    stages: dict[str, Found] = {}
    for name, kind in (("heldout", "heldout"), (f"{EVALUATION}/base", EVALUATION)):
        found = [one for one in kinds[kind] if one.content == read.get(name.rpartition("/")[2])]
        stages |= {name: found[-1]} if found else {}
    return stages | {f"{EVALUATION}/{label}": evaluation}


def earlier_targets(storage: Storage, label: str) -> list[str]:
    """A sentence for each target of this name that an earlier version made, which cannot be taken."""
    warnings: list[str] = []
    names = [name for name in storage.folders("target") if name.rpartition("-")[0] == label]
    for found in _read(storage, [f"target/{name}" for name in names], []):
        if found is not None:
            _is_earlier(storage, found, warnings)
    return warnings


def _is_earlier(storage: Storage, target: Found, warnings: list[str]) -> bool:
    """Whether its evaluation is a part of it; says that it is left out."""
    if not TargetArtifact.is_earlier(target.manifest):
        return False
    warnings.append(
        f"{storage.uri}/{target.folder} is left out: it was trained by an earlier s2l_ray, which kept the held-out "
        "figures in the target itself. The model in it is whole, but it has no evaluation that could be compared: `s2l "
        "finetune` or `s2l run` trains it again beside it, or go on with the s2l_ray that made it"
    )
    return True


def note_chain(storage: Storage, folders: Mapping[str, str]) -> None:
    """Note the chain that is complete now (stage → folder), if it is not noted yet; hold the run's lock."""
    if _read_note(storage)[0] != folders:
        storage.write_json(NOTE, {"stages": dict(folders)})


def is_complete(chain: Chain) -> bool:
    """Whether all stages are there and each has read those before it."""
    return chain.keys() == READS.keys() and all(_follows(chain[name], chain, *READS[name]) for name in READS)


def is_configured(chain: Chain, config: S2LConfig) -> bool:
    """Whether the stages' settings are those of this configuration."""
    return all(_matches(found, config, name) for name, found in chain.items())


def _read_note(storage: Storage) -> tuple[dict[str, str], str]:
    """(stage → folder, what is wrong with the note). Of what else stands there nothing is taken."""
    try:
        content = storage.read_json(NOTE)
    except FileNotFoundError:
        return {}, "is missing"
    except (ValueError, RecursionError, OSError):
        return {}, "cannot be read"
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict):
        return {}, "is damaged"
    folders = {n: f for n in READS if isinstance(f := stages.get(n), str) and re.fullmatch(rf"{n}/[0-9a-f]{{12}}", f)}
    return folders, "" if len(folders) == len(READS) else "is damaged"


def _of_kind(storage: Storage, kind: str, warnings: list[str]) -> list[Found]:
    """All complete artifacts in the folder `kind`, in the order in which they were finished."""
    folders = [f"{kind}/{name}" for name in storage.folders(kind)]
    found = [f for f in _read(storage, folders, warnings) if f is not None]
    return sorted(found, key=lambda f: (f.manifest.finished_at, f.folder))


def _read(storage: Storage, folders: Iterable[str], warnings: list[str]) -> list[Found | None]:
    """The manifests in these folders; None where there is none, it is damaged, or another folder's."""

    def read(folder: str) -> Found | str | None:
        try:
            manifest = read_manifest(storage.sub(folder))
        except (ManifestError, RecursionError) as error:
            return f"{storage.uri}/{folder} is left out: {str(error).splitlines()[0]}"
        if manifest is None:
            return None
        length = 8 if folder.startswith(_NAMED) else 12
        return Found(folder, manifest) if re.split("[/-]", folder)[-1] == manifest.key[:length] else None

    with ThreadPoolExecutor(_READERS) as pool:
        results = list(pool.map(read, folders))
    warnings += [r for r in results if isinstance(r, str)]
    return [r if isinstance(r, Found) else None for r in results]


def _follows(found: Found, chain: Chain, *names: str) -> bool:
    """Whether it was made from the chain's stages of these names; no tokens of a subset stand for the corpus's."""
    read = found.manifest.inputs
    is_whole = not found.folder.startswith("tokens/") or "subset" not in read
    return is_whole and all(read.get(name) == chain[name].content for name in names)


def _read_of_chain(subset: Found) -> list[str]:
    """Stages that it must have been made from; clusters only if its selector reads them."""
    return ["corpus", "trajectories", *(["clusters"] if "clusters" in subset.manifest.inputs else [])]


def _complete_chains(kinds: dict[str, list[Found]]) -> list[Chain]:
    """Every chain whose inputs fit; where several folders have the same content, with each of them."""

    def inputs(of: Found) -> list[list[Found]]:
        names = READS[of.folder.partition("/")[0]]
        return [[f for f in kinds[name] if f.content == of.manifest.inputs.get(name)] for name in names]

    chains: list[Chain] = []
    for clusters in kinds["clusters"]:
        for trajectories in inputs(clusters)[0]:
            for before in product(*inputs(trajectories)):
                chain = dict(zip(READS, (*before, trajectories, clusters), strict=True))
                chains += [chain] if is_complete(chain) else []
    return chains


def _begun_chain(kinds: dict[str, list[Found]], config: S2LConfig) -> Chain:
    """As far as this configuration has come."""
    chains: list[Chain] = [{}]
    for name, reads in READS.items():
        fit = [found for found in kinds[name] if _matches(found, config, name)]
        longer = [chain | {name: found} for chain in chains for found in fit if _follows(found, chain, *reads)]
        if not longer:
            break
        chains = longer
    return chains[-1]


def _rank(chain: Chain, config: S2LConfig, noted: Chain) -> tuple[int, int, str, str]:
    last = chain["clusters"]
    as_configured = sum(_matches(found, config, name) for name, found in chain.items())
    as_noted = sum(chain[name].folder == found.folder for name, found in noted.items())
    return as_configured, as_noted, last.manifest.finished_at, last.folder


def _best_of_each(found: list[Found], fitness: Any) -> dict[str, Found]:
    """label → the fittest of that label, of several the one finished last (as `found` is sorted)."""
    best: dict[str, Found] = {}
    for one in found:
        if one.label not in best or fitness(one) >= fitness(best[one.label]):
            best[one.label] = one
    return best


def _ordered(labels: Iterable[str], configured: Iterable[str]) -> list[str]:
    """Those of the configuration first, in its order."""
    there = set(labels)
    return list(dict.fromkeys([name for name in configured if name in there] + sorted(there)))


def _tokens_by_label(tokens: list[Found], subsets: list[Found], chain: Chain) -> dict[str, list[Found]]:
    """What was trained on → its tokens, by whatever tokenizers. A subset's folder is a name of its own too."""
    of_corpus = [t for t in tokens if t.manifest.inputs.get("corpus") == chain["corpus"].content]
    by_label = {FULL: [t for t in of_corpus if "subset" not in t.manifest.inputs]}
    for subset in subsets:
        made = [t for t in of_corpus if t.manifest.inputs.get("subset") == subset.content]
        for label in (subset.label, subset.folder.removeprefix("subset/")):
            by_label.setdefault(label, []).extend(made)
    return by_label


def _tokens_of(target: Found, tokens: dict[str, list[Found]]) -> list[Found]:
    """The tokens that the target was trained on; none if they are not of this chain."""
    return [t for t in tokens.get(target.label, []) if t.content == target.manifest.inputs.get("tokens")]


def _is_trained_on(target: Found, subset: Found, tokens: list[Found]) -> bool:
    """Whether the target saw these examples, and as this subset marks them; one with other weights has the same ids,
    and so the same tokens."""
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
    """Of tokens with the same content, those that were made for this target."""
    made_for = target.manifest.inputs.get("subset") or (subset.content if subset else None)
    return next((t for t in reversed(tokens) if t.manifest.inputs.get("subset") == made_for), tokens[-1])


def _matches(found: Found, config: S2LConfig, name: str = "") -> bool:
    """Whether its settings are those of the configuration, as far as both name them (versions may add some)."""
    settings = {"held_out": None, **LATER_SETTINGS, **found.manifest.settings}
    if found.folder.startswith("subset/"):
        settings = {"options": {}, **settings}
    if isinstance(scoring := settings.pop("trajectories", None), dict):
        settings |= {f"trajectories.{key}": value for key, value in {**_EARLIER_TRAJECTORIES, **scoring}.items()}
    expected = _expected(config, name or found.folder.partition("/")[0], str(settings.get("selector")))
    return all(settings[key] == expected[key] for key in settings.keys() & expected.keys())


def _expected(config: S2LConfig, name: str, selector: str) -> dict[str, Any]:
    """Settings of a stage as its manifest would have them, and more; what the machine decides is left out.

    Args:
        selector: of a subset.
    """
    if name == "corpus":
        held_out = [config.heldout.share, config.seed] if config.heldout.share else None
        parts = config.trajectories.examples_per_part
        return config.corpus.stored() | {"examples_per_part": parts, "held_out": held_out}
    if name == "clusters":
        return config.clusters.stored() | {"seed": config.seed_of("clusters")}
    if name == "subset":
        seed = {"seed": config.seed_of("selection")}
        try:
            return seed | {"options": {}} | config.selection.settings_of(selector)
        except UserError:  # a selector that was registered in another process
            return seed
    model = config.target if name == "target" else config.proxy
    if model is None or name == "trajectories":
        return {}
    expected = model.stored()
    if name == "tokens" and (model.tokenizer or model.train_tokenizer):
        expected |= {"model": None, "revision": None, "gguf_file": None}
    if name != "tokens":
        expected |= {"seed": config.seed_of("target" if name == "target" else "proxy")}
        expected |= {
            f"trajectories.{key}": value
            for key, value in {**_EARLIER_TRAJECTORIES, **config.trajectories.settings}.items()
        }
    if model.precision == "auto":
        del expected["precision"]
    return expected if model.max_steps is None else expected | {"total_steps": model.max_steps}
