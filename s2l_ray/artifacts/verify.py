"""`s2l verify`: read all files of a run, several at once, and compare them with their digests; changes nothing."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from s2l_ray.artifacts import generated_corpus as generated
from s2l_ray.artifacts.file_record import read_record
from s2l_ray.artifacts.manifest import EarlierLayout, ManifestError, read_manifest
from s2l_ray.artifacts.outputs import MANIFEST_NAME, OutputFile, verify_digests
from s2l_ray.artifacts.run import CONFIG, UNFINISHED, RunError
from s2l_ray.config.stored import state_of
from s2l_ray.observability.progress import Progress
from s2l_ray.storage.folder import Storage

_STAGE_FOLDER = re.compile(r"(?:^|/)(?:[0-9a-f]{12}|[^/]*-[0-9a-f]{8})$")
_INPUT = re.compile(rf"^(?:{generated.FOLDER}/[0-9a-f]{{12}}\.json|huggingface/[0-9a-f]{{16}}/export\.json)$")
_SWEEP = re.compile(r"^sweep/(?:files\.json|(?:trials|stopped)/[^/]+\.json)$")
_STAGE_CURE = (
    "Delete it and run the command that made it again (`s2l run`; `s2l select`, `s2l finetune` or `s2l sweep` for what "
    "they added): the stage is made again from what it read"
)
_CONFIG_CURE = "`s2l run` with this run's configuration rewrites it; complete stages are kept"
_INPUT_CURE = "Delete it and run `s2l run` again: it is rebuilt"
_SWEEP_CURE = (
    "Delete it and run the same `s2l sweep` again: it is rewritten, from the targets that are complete; only what "
    "is missing is trained"
)
_WITHOUT_DIGEST = {
    "locks": "locks have no digest", "stage_locks": "locks have no digest",
    "tensorboard": "logs have no digest", "wandb": "logs have no digest", "sweep/logs": "logs have no digest",
    "evaluation": "the overview has no digest: it is rebuilt with every evaluation",
    "report": "the page and its numbers have no digest: they are rebuilt at the end of every run",
    "sweep/made": "notes on which trials share a target have no digest",
    "sweep/ray_tune": "working state of a sweep that was interrupted has no digest",
}  # fmt: skip
_UNFINISHED = "of no complete stage: checkpoints, and what an interrupted command has written, have no digest"


@dataclass
class Verification:
    """Result of a verification."""

    num_files: int = 0
    num_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    """One or two sentences for each bad file: name, stage, remedy."""
    unverified: list[str] = field(default_factory=list)
    """Files without a digest, by folder, and why."""
    num_unverified: int = 0
    """Number of files without a digest."""

    def lines(self) -> list[str]:
        """Return the result as lines for people."""
        told = [f"bad: {problem}" for problem in self.problems]
        told += [f"not verified: {what}" for what in self.unverified]
        outcome = f"{len(self.problems):,} bad" if self.problems else "all of them are what was written"
        compared = f"{self.num_files:,} files, {self.num_bytes:,} bytes compared with their digests: {outcome}"
        if self.num_unverified:
            compared += f"; nothing vouches for {self.num_unverified:,} more, named above as not verified"
        return [*told, compared]


@dataclass
class _Claims:
    """Files listed by the manifests and records of a run folder."""

    outputs: list[OutputFile] = field(default_factory=list)
    """Listed files, named relative to the run folder."""
    owner: dict[str, str] = field(default_factory=dict)
    """Output → what it belongs to, and the remedy."""
    spoken_for: set[str] = field(default_factory=set)
    """Files in `outputs`, and the manifests and records that list them."""


def verify_run(storage: Storage, progress: Progress) -> Verification:
    """Compare every file that a manifest or record of this run lists, including older stages, with its digest.

    Raises:
        RunError: no stage in this folder is complete, so there is nothing to compare.
    """
    names = [entry.name for entry in storage.list(recursive=True)]
    result, claims = Verification(), _Claims()
    folders = [n.rpartition("/")[0] for n in names if n.endswith(f"/{MANIFEST_NAME}")]
    folders += {n.partition(f"/{MANIFEST_NAME}/")[0] for n in names if f"/{MANIFEST_NAME}/" in n}  # no file, but damage
    folders = [folder for folder in folders if _STAGE_FOLDER.search(folder)]
    for folder in folders:
        _read_stage(storage, folder, claims, result)
    for name in (CONFIG, UNFINISHED):
        if name in names:
            _read_configuration(storage, name, claims, result)
    for name in filter(_INPUT.match, names):
        owner = f"the input that the run made in {name.rpartition('/')[0]}"
        _read_record(storage, name, owner, _INPUT_CURE, claims, result)
    for name in filter(_SWEEP.match, names):
        _read_record(storage, name, "the results of the sweep", _SWEEP_CURE, claims, result)
    if not folders:
        raise RunError(f"{storage.uri} holds no complete stage, so there is nothing to verify; check the path")
    total = sum(output.size for output in claims.outputs)
    with progress.stage("verify", total / 1e6, "MB") as bar:
        found = verify_digests(storage, claims.outputs, on_bytes=lambda size: bar.update(advance=size / 1e6))
    result.problems += [f"{problem.what} It belongs to {claims.owner[problem.name]}." for problem in found]
    result.num_files, result.num_bytes = len(claims.outputs), total
    unclaimed = [name for name in names if name not in claims.spoken_for]
    result.unverified += _unclaimed(unclaimed, folders)
    result.num_unverified = len(unclaimed)
    return result


def _read_stage(storage: Storage, folder: str, claims: _Claims, result: Verification) -> None:
    claims.spoken_for.add(f"{folder}/{MANIFEST_NAME}")
    try:
        manifest = read_manifest(storage.sub(folder))
    except EarlierLayout as earlier:
        result.unverified.append(f"{folder}/: {earlier}")
        return
    except ManifestError as error:
        result.problems.append(f"{str(error).rstrip('.')}.")
        return
    if manifest is None:
        result.unverified.append(f"{folder}/: deleted by another command while this one was looking")
        return
    _claim(claims, folder, manifest.outputs, f"the stage {manifest.stage} ({folder}). {_STAGE_CURE}")


def _read_configuration(storage: Storage, name: str, claims: _Claims, result: Verification) -> None:
    state = state_of(storage.read_bytes(name))
    if state == "unmarked":  # of an earlier version
        return
    claims.spoken_for.add(name)
    if state == "changed":
        result.problems.append(f"{storage.uri_of(name)} was altered: its digest does not fit. {_CONFIG_CURE}.")


def _read_record(storage: Storage, name: str, owner: str, cure: str, claims: _Claims, result: Verification) -> None:
    claims.spoken_for.add(name)
    folder, _, base = name.rpartition("/")
    record = read_record(storage.sub(folder), base)
    if record is None:
        result.problems.append(f"{storage.uri_of(name)} was altered: its digest does not fit. {cure}.")
        return
    _claim(claims, folder, record.files, f"{owner}. {cure}")


def _claim(claims: _Claims, folder: str, outputs: list[OutputFile], owner: str) -> None:
    for output in outputs:
        inside = output.model_copy(update={"name": f"{folder}/{output.name}"})
        claims.outputs.append(inside)
        claims.owner[inside.name] = owner
        claims.spoken_for.add(inside.name)


def _unclaimed(names: list[str], folders: list[str]) -> list[str]:
    """Count files without a digest by folder, with the reason."""
    complete, counts = set(folders), Counter[str]()
    for name in names:
        *parents, _ = name.split("/")
        above = ["/".join(parents[: i + 1]) for i in range(len(parents))]
        inside = next((folder for folder in above if folder in complete), None)
        known = next((folder for folder in reversed(above) if folder in _WITHOUT_DIGEST), None)
        if not above:
            counts[f"{name} (index and logs have no digest, nor have settings stored by earlier versions)"] += 1
        elif inside is not None:
            counts[f"{inside}/ (not in its manifest, read by no stage)"] += 1
        elif known is not None:
            counts[f"{known}/ ({_WITHOUT_DIGEST[known]})"] += 1
        else:
            counts[f"{above[:2][-1]}/ ({_UNFINISHED})"] += 1
    return [f"{where}: {count:,} file{'s' * (count > 1)}" for where, count in sorted(counts.items())]
