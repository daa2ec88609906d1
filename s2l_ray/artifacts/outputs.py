"""The files that a stage leaves behind: listed with their digests, and compared with what was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict

from s2l_ray.storage.digests import FileDigest
from s2l_ray.storage.folder import Storage

MANIFEST_NAME = "manifest.json"
_FULL_CHECK_BYTES = 64 << 20
_FULL_CHECK_FILES = 256
"""The smallest files of a stage, up to so many bytes in all, are compared whenever the stage is looked at."""
_THREADS = 8


class OutputFile(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str
    """Path relative to the stage's folder."""
    size: int
    """Bytes."""
    digest: str
    """First 128 bits of the SHA-256 of the bytes, hexadecimal; computed by whoever wrote the file."""

    @property
    def known(self) -> FileDigest:
        return FileDigest(self.size, self.digest)


@dataclasses.dataclass(frozen=True)
class FileProblem:
    """A file that is not what its manifest says."""

    name: str
    """Relative to the stage's folder."""
    what: str
    """A sentence that names the file."""


def list_outputs(storage: Storage, leave_out: tuple[str, ...] = (), only: tuple[str, ...] = ("",)) -> list[OutputFile]:
    """Every file of a stage's folder except the manifest, for `StageManifest.outputs`.

    Digests are those noted when the files were written (`Storage.recording`); only files of which none is known are
    read for it.

    Args:
        leave_out: beginnings of the names of files that do not count.
        only: beginnings of the names of those that do; default: all.

    Raises:
        DamagedFile: a file has another size than was written.
    """
    noted = {f["name"]: FileDigest(f["size"], f["digest"]) for f in storage.take_written()}
    entries = [e for e in storage.list(recursive=True) if e.name != MANIFEST_NAME and e.name.startswith(only)]
    entries = [e for e in entries if not e.name.startswith(leave_out)]
    for entry in entries:
        if entry.name in noted and noted[entry.name].size != entry.size:
            noted[entry.name].check(FileDigest(entry.size, ""), f"{storage.uri}/{entry.name}")
    unknown = [e.name for e in entries if e.name not in noted]
    with ThreadPoolExecutor(_THREADS) as pool:
        noted |= dict(zip(unknown, pool.map(storage.digest, unknown), strict=True))
    return [OutputFile(name=e.name, size=e.size, digest=noted[e.name].digest) for e in entries]


def verify_outputs(storage: Storage, outputs: Iterable[OutputFile]) -> list[FileProblem]:
    """What is wrong with the files, as far as it is cheap to see: a problem for each file that is missing, has another
    size, or is among the smallest (_FULL_CHECK_BYTES together) and has other bytes."""
    sizes = {entry.name: entry.size for entry in storage.list(recursive=True)}
    problems, whole = [], []
    for output in outputs:
        if output.name not in sizes:
            problems.append(FileProblem(output.name, f"{output.name} is missing from {storage.uri}."))
        elif sizes[output.name] != output.size:
            what = f"{output.name} in {storage.uri} has {sizes[output.name]:,} bytes, {output.size:,} were written."
            problems.append(FileProblem(output.name, what))
        else:
            whole.append(output)
    return problems + verify_digests(storage, _cheap(whole))


def verify_digests(
    storage: Storage, outputs: Iterable[OutputFile], on_bytes: Callable[[int], None] = lambda size: None
) -> list[FileProblem]:
    """Read the files, several at once; a problem for each that is gone or has other bytes than were written.

    Args:
        on_bytes: told the size of every file that was read, from any thread.
    """

    def verify(output: OutputFile) -> FileProblem | None:
        try:
            found = storage.digest(output.name)
        except FileNotFoundError:
            return FileProblem(output.name, f"{output.name} is missing from {storage.uri}.")
        except OSError as error:
            return FileProblem(output.name, f"{output.name} in {storage.uri} cannot be read ({error}).")
        on_bytes(output.size)
        if found == output.known:
            return None
        what = (
            f"{output.name} in {storage.uri} has other bytes than were written (their digest is {found.digest}, "
            f"not {output.digest})."
        )
        return FileProblem(output.name, what)

    with ThreadPoolExecutor(_THREADS) as pool:
        return [problem for problem in pool.map(verify, outputs) if problem is not None]


def _cheap(outputs: list[OutputFile]) -> list[OutputFile]:
    """The smallest, _FULL_CHECK_BYTES and _FULL_CHECK_FILES at most."""
    chosen, total = [], 0
    for output in sorted(outputs, key=lambda o: o.size)[:_FULL_CHECK_FILES]:
        total += output.size
        if total > _FULL_CHECK_BYTES:
            break
        chosen.append(output)
    return chosen
