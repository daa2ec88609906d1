"""Places on this machine for what a command writes beside a run: nothing else that is there is overwritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from s2l_ray.errors import UserError, first_line, shown
from s2l_ray.storage.filesystems import absolute, scheme_of
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.writable import check_writable
from s2l_ray.text.redact import strip_credentials

_HEAD_BYTES = 1 << 20


def output_place(text: str, option: str) -> Path:
    """The place on this machine that an option names, which may be a file:// URI.

    Raises:
        UserError: another URI; as a path, it would be a folder called `s3:`.
    """
    scheme = scheme_of(text)
    if scheme == "file":
        return Path(absolute(text))
    if scheme is not None:
        raise UserError(
            f"{option} {shown(strip_credentials(text))} is not on this machine, where this command writes; name a path "
            "here, and copy from it"
        )
    return Path(text).expanduser()


def make_output_folder(folder: Path, option: str) -> None:
    """Create the folder if it is not there.

    Args:
        option: the option that names the folder, for messages.

    Raises:
        StorageError: it cannot be created, or files in it cannot.
    """
    folder = folder.absolute()
    check_writable(Storage.open(folder), shown(str(folder)), f"choose another place with {option}")
    folder.mkdir(parents=True, exist_ok=True)


def check_output_file(path: Path, is_own: Callable[[bytes], bool], what: str, option: str) -> None:
    """Refuse a place where something else would be overwritten.

    Args:
        is_own: whether the first bytes of a file (1 MiB) are those of what the command itself writes.
        what: what the command writes there, for messages: `a page of s2l report`.
        option: the option that names the place, for messages.

    Raises:
        UserError: another file is there, or something that is no file.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, so {what} cannot be written; name a file in it with {option}")
    try:
        if not path.exists():
            return
        if not path.is_file():
            raise UserError(f"{path} is a device or a pipe, which {what} would replace; name a file with {option}")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or first_line(error)}), so it may be anything, and {what} would "
            f"replace it; choose another place with {option}"
        ) from None
    if head and not is_own(head):
        raise UserError(
            f"{path} exists and is not {what}, so its content would be lost; choose another name with {option}, or "
            "move that file away"
        )
