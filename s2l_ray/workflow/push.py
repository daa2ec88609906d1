"""`s2l push`: uploads a run's subset or target, with a card, to a repository on the Hugging Face hub.

Everything is first written to a folder on this machine, which is then uploaded; `--dry-run` stops before the upload.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from s2l_ray.artifacts.models import SubsetArtifact
from s2l_ray.artifacts.results import Subset, Target
from s2l_ray.artifacts.run import Run
from s2l_ray.errors import EnvironmentFault, UserError, first_line, running, shown
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.output_folder import make_output_folder

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

RepoType = Literal["dataset", "model"]


class PushError(UserError):
    """Nothing was pushed; the message says why and how to fix it."""


class HubFailed(EnvironmentFault):
    """The hub did not accept the upload; another attempt may succeed."""


@dataclass(frozen=True)
class Package:
    """A folder that is ready to be uploaded."""

    folder: Path
    repo_type: RepoType
    files: list[str]


def check_repo_id(repo_id: str) -> None:
    """Raises PushError if this is not the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PushError(
            f"{shown(repo_id)} is not a valid name for a repository on the hub ({first_line(error)}); write user/name"
        ) from None
    if "/" not in repo_id:
        raise PushError(f"{shown(repo_id)} does not say whose repository it is; write user/{repo_id}")


def package_subset(run: Run, name: str, folder: Path) -> Package:
    """Write a subset's rows as Parquet, the number taken from each group, and the card.

    Raises:
        RunError: there is no such subset.
        PushError: the folder is not empty.
    """
    subset = run.subset(name)
    _make_empty(folder)
    with _complete(folder, subset.storage.uri, "s2l select"):
        return _write_subset(run, subset, folder)


def _write_subset(run: Run, subset: Subset, folder: Path) -> Package:
    from s2l_ray.workflow.hub_cards import dataset_card

    files = [file for file in SubsetArtifact.of(subset).files if file.endswith(".parquet")]
    data = [f"data/train-{number:05d}-of-{len(files):05d}.parquet" for number in range(len(files))]
    for file, stored in zip(files, data, strict=True):
        _copy(subset.storage, file, folder / stored)
    _copy(subset.storage, "groups.json", folder / "groups.json")
    (folder / "README.md").write_text(str(dataset_card(run, subset, "data/train-*.parquet")), encoding="utf-8")
    return Package(folder, "dataset", ["README.md", *data, "groups.json"])


def package_target(run: Run, name: str, folder: Path) -> Package:
    """Write a target's model, with a card that includes its held-out losses.

    Raises:
        RunError: there is no such target.
        PushError: the folder is not empty.
    """
    target = run.target(name)
    _make_empty(folder)
    with _complete(folder, target.storage.uri, "s2l finetune"):
        return _write_target(run, target, folder)


def _write_target(run: Run, target: Target, folder: Path) -> Package:
    from s2l_ray.workflow.hub_cards import model_card

    model = target.storage.sub("model")
    outputs = [output.name for output in target.manifest.outputs]  # what is there may be incomplete
    files = [name.removeprefix("model/") for name in outputs if name.startswith("model/")]
    for file in files:
        _copy(model, file, folder / file)
    written = model.read_bytes("README.md").decode()
    (folder / "README.md").write_text(str(model_card(run, target, written)), encoding="utf-8")
    return Package(folder, "model", files)


def upload(package: Package, repo_id: str, public: bool) -> str:
    """Create the repository if it does not exist, upload the folder, and return the repository's address.

    Args:
        public: visibility of a new repository; that of an existing one is not changed.

    Raises:
        PushError: there is no token, or it may not write to the repository.
        HubFailed: the hub did not answer.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise PushError(
            "this machine has no token for the hub, so nothing can be pushed; run `hf auth login`, or set HF_TOKEN"
        )
    api = HfApi(library_name="s2l_ray")
    with _hub_named(repo_id):
        created = api.create_repo(repo_id, repo_type=package.repo_type, private=not public, exist_ok=True)
        with running():
            api.upload_folder(
                repo_id=created.repo_id, repo_type=package.repo_type, folder_path=package.folder,
                commit_message="Pushed by s2l push",
            )  # fmt: skip
    return str(created)


@contextlib.contextmanager
def _hub_named(repo_id: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise PushError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it, or add --dry-run") from None
    except HfHubHTTPError as error:
        raise _refusal(repo_id, error) from error
    except OSError as error:
        raise HubFailed(f"the hub cannot be reached: {first_line(error)}. Try again with a connection") from error
    except Exception as error:
        if "TransportError" not in {kind.__name__ for kind in type(error).__mro__}:
            raise
        raise HubFailed(f"the hub cannot be reached: {first_line(error)}. Try again with a connection") from error


def _refusal(repo_id: str, error: HfHubHTTPError) -> PushError | HubFailed:
    """The error to raise for the hub's answer, by its status: most refusals of a request do not pass by waiting."""
    status = error.response.status_code
    said = f"{status}: {first_line(error)}"
    if status in (401, 403):
        return PushError(
            f"the hub refuses to let this token write to {repo_id} ({said}); log in with one that may (`hf auth "
            "login`), or push to your own name"
        )
    if status == 404:
        return PushError(
            f"the hub knows no {repo_id} that this token may see ({said}), so nothing was pushed; check the user's or "
            "organisation's name, or log in with a token of a member (`hf auth login`)"
        )
    if status in (402, 413):
        return PushError(
            f"{repo_id} is more than the hub stores there ({said}); push a smaller subset or model, free space, or "
            "extend the account's plan"
        )
    if status in (408, 409, 412, 423):
        return HubFailed(f"{repo_id} is being changed by someone else, or the hub was busy ({said}). Push again")
    if status == 429:
        wait = error.response.headers.get("Retry-After", "")
        when = f"in {wait} seconds" if wait.isdigit() else "in some minutes"
        return HubFailed(f"the hub limits how often this account may ask it ({said}). Try again {when}")
    if status < 500:
        return PushError(
            f"the hub does not accept {repo_id} as it is ({said}), and will not later; correct what it names: "
            "--dry-run writes the folder that would be pushed, to look at"
        )
    return HubFailed(f"the hub has a fault of its own ({said}). Try again later; https://status.huggingface.co")


def _make_empty(folder: Path) -> None:
    make_output_folder(folder, "--out")
    if any(folder.iterdir()):
        raise PushError(f"the folder {folder} is not empty, and its files would be pushed too; choose another one")


@contextlib.contextmanager
def _complete(folder: Path, what: str, command: str) -> Iterator[None]:
    """Empty the folder again if the block fails: half a package would be in the way of the next attempt."""
    try:
        yield
    except BaseException as error:
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not isinstance(error, FileNotFoundError):
            raise
        raise PushError(
            f"a file of {what} is missing ({first_line(error)}), so it would be incomplete on the hub; delete that "
            f"folder and make it again with `{command}`"
        ) from error


def _copy(storage: Storage, name: str, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    storage.copy_to(to, name)
