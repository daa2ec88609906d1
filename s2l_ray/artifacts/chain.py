"""Find the chain corpus → … → clusters from which a run's subsets are made, by the content that artifacts name.

`run.json` only notes which chain was completed last, so that the others need not be read. If it is missing or damaged,
the chain with the configuration's settings is used. All manifests of corpora, tokens, proxies, trajectories and
clusters are read only if the noted chain does not have the configuration's settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product

from s2l_ray.artifacts.found import Chain, Found, follows, found_of_kind, matches, read_found
from s2l_ray.config.schema import S2LConfig
from s2l_ray.storage.folder import Storage

NOTE = "run.json"

READS: dict[str, tuple[str, ...]] = {
    "corpus": (),
    "tokens": ("corpus",),
    "proxy": ("tokens",),
    "trajectories": ("corpus", "tokens", "proxy"),
    "clusters": ("trajectories",),
}
"""Stages from which every subset of a run is made, in order, and which of the others each one reads."""


def find_chain(storage: Storage, config: S2LConfig, warnings: list[str]) -> Chain:
    """Return the chain of this configuration as far as it is complete or, with a warning, the one completed last.

    Args:
        warnings: extended by what is damaged or missing, and what is used instead.
    """
    note, problem = _read_note(storage)
    manifests = read_found(storage, note.values(), warnings)
    noted = {name: found for name, found in zip(note, manifests, strict=True) if found is not None}
    if is_complete(noted) and is_configured(noted, config):
        return noted
    kinds = {name: found_of_kind(storage, name, warnings) for name in READS}
    chains = _complete_chains(kinds)
    if not chains:
        return _begun_chain(kinds, config)
    best = max(chains, key=lambda chain: _rank(chain, config, noted))
    if not is_configured(best, config):
        warnings.append(
            f"{storage.uri}: the selection with the settings of its configuration is not complete; the one finished "
            f"{best['clusters'].manifest.finished_at} is used instead ({best['clusters'].folder})"
        )
    elif problem or len(noted) < len(READS):
        warnings.append(
            f"{storage.uri_of(NOTE)} {problem or 'names missing folders'}; the run's stages were found by their "
            "manifests"
        )
    return best


def note_chain(storage: Storage, folders: Mapping[str, str]) -> None:
    """Note the chain that is now complete (stage → folder), if it is not noted yet; the caller holds the run's lock."""
    if _read_note(storage)[0] != folders:
        storage.write_json(NOTE, {"stages": dict(folders)})


def is_complete(chain: Chain) -> bool:
    """Whether all stages are present and each has read those before it."""
    return chain.keys() == READS.keys() and all(follows(chain[name], chain, *READS[name]) for name in READS)


def is_configured(chain: Chain, config: S2LConfig) -> bool:
    """Whether the stages' settings are those of this configuration."""
    return all(matches(found, config, name) for name, found in chain.items())


def _read_note(storage: Storage) -> tuple[dict[str, str], str]:
    """Return (stage → folder, what is wrong with the note); anything else in the note is ignored."""
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


def _complete_chains(kinds: dict[str, list[Found]]) -> list[Chain]:
    """Return every chain whose inputs fit, including each of several folders with the same content."""

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
    """Return the chain of this configuration as far as it is complete."""
    chains: list[Chain] = [{}]
    for name, reads in READS.items():
        fit = [found for found in kinds[name] if matches(found, config, name)]
        longer = [chain | {name: found} for chain in chains for found in fit if follows(found, chain, *reads)]
        if not longer:
            break
        chains = longer
    return chains[-1]


def _rank(chain: Chain, config: S2LConfig, noted: Chain) -> tuple[int, int, str, str]:
    last = chain["clusters"]
    as_configured = sum(matches(found, config, name) for name, found in chain.items())
    as_noted = sum(chain[name].folder == found.folder for name, found in noted.items())
    return as_configured, as_noted, last.manifest.finished_at, last.folder
