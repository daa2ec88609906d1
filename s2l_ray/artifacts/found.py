"""Find complete artifacts in a run's folder, with the inputs and settings recorded in their manifests.

Cost: a listing of each kind's folder, and one small read per manifest, 16 at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from s2l_ray.artifacts.manifest import ManifestError, StageManifest, read_manifest
from s2l_ray.config.corpus import LATER_SETTINGS
from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import UserError
from s2l_ray.storage.folder import Storage

_READERS = 16
_EARLIER_TRAJECTORIES = {"source": "snapshots"}
"""Values of settings that the manifests of earlier proxies do not contain."""
_NAMED = ("subset/", "target/", "heldout_evaluation/", "generation/", "evaluation/")
"""Folders whose names consist of a label and part of the key."""


@dataclass(frozen=True)
class Found:
    """A complete artifact."""

    folder: str
    """Folder of the artifact, relative to the run's."""
    manifest: StageManifest

    @property
    def content(self) -> str:
        return self.manifest.content_fingerprint

    @property
    def label(self) -> str:
        """Label such as `s2l-0.11`, of a subset or of the target trained on it."""
        return self.manifest.stage.partition("/")[2]


Chain = dict[str, Found]
"""Name of a stage → its artifact."""


class Skipped(str):
    """A warning about an artifact that cannot be used, because its manifest is damaged."""

    @property
    def reason(self) -> str:
        return self.removeprefix("skipped: ")


def found_of_kind(storage: Storage, kind: str, warnings: list[str]) -> list[Found]:
    """Return all complete artifacts in the folder `kind`, in the order in which they were finished."""
    folders = [f"{kind}/{name}" for name in storage.folders(kind)]
    found = [f for f in read_found(storage, folders, warnings) if f is not None]
    return sorted(found, key=lambda f: (f.manifest.finished_at, f.folder))


def read_found(storage: Storage, folders: Iterable[str], warnings: list[str]) -> list[Found | None]:
    """Read the manifests in these folders; None if there is none, it is damaged, or belongs to another folder."""

    def read(folder: str) -> Found | str | None:
        try:
            manifest = read_manifest(storage.sub(folder))
        except (ManifestError, RecursionError) as error:
            return Skipped(f"skipped: {str(error).splitlines()[0]}")
        if manifest is None:
            return None
        length = 8 if folder.startswith(_NAMED) else 12
        return Found(folder, manifest) if re.split("[/-]", folder)[-1] == manifest.key[:length] else None

    with ThreadPoolExecutor(_READERS) as pool:
        results = list(pool.map(read, folders))
    warnings += [r for r in results if isinstance(r, str)]
    return [r if isinstance(r, Found) else None for r in results]


def follows(found: Found, chain: Chain, *names: str) -> bool:
    """Whether an artifact was made from these stages of the chain; tokens of a subset are not those of the corpus."""
    read = found.manifest.inputs
    is_whole = not found.folder.startswith("tokens/") or "subset" not in read
    return is_whole and all(read.get(name) == chain[name].content for name in names)


def matches(found: Found, config: S2LConfig, name: str = "") -> bool:
    """Whether an artifact has the configuration's settings, as far as both contain them (versions may add some)."""
    settings = {"held_out": None, **LATER_SETTINGS, **found.manifest.settings}
    if found.folder.startswith("subset/"):
        settings = {"options": {}, **settings}
    if isinstance(scoring := settings.pop("trajectories", None), dict):
        settings |= {f"trajectories.{key}": value for key, value in {**_EARLIER_TRAJECTORIES, **scoring}.items()}
    expected = _expected(config, name or found.folder.partition("/")[0], str(settings.get("selector")))
    return all(settings[key] == expected[key] for key in settings.keys() & expected.keys())


def _expected(config: S2LConfig, name: str, selector: str) -> dict[str, Any]:
    """Return the settings that a stage's manifest would have, and more, without those that depend on the machine.

    Args:
        selector: selector of a subset.
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
