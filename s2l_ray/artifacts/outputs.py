"""Output files of stages: list them with their digests, and compare them with what was written."""

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
"""The smallest files of a stage, up to this number and this many bytes in total, are compared whenever it is used."""
_THREADS = 8


class OutputFile(BaseModel):
    """A file of a stage with its digest."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str
    """Path relative to the stage's folder."""
    size: int
    """Bytes."""
    digest: str
    """First 128 bits of the SHA-256 of the bytes, hexadecimal, computed when the file was written."""

    @property
    def known(self) -> FileDigest:
        return FileDigest(self.size, self.digest)


@dataclasses.dataclass(frozen=True)
class FileProblem:
    """A file that is not what its manifest says."""

    name: str
    """Path relative to the stage's folder."""
    what: str
    """Sentence that names the file and the problem."""


def list_outputs(storage: Storage, leave_out: tuple[str, ...] = (), only: tuple[str, ...] = ("",)) -> list[OutputFile]:
    """List every file of a stage's folder except the manifest, for `StageManifest.outputs`.

    Digests are those recorded when the files were written (`Storage.recording`); only files without one are read.

    Args:
        leave_out: prefixes of the names of files to leave out.
        only: prefixes of the names of files to list; default: all.

    Raises:
        DamagedFile: a file does not have the size that was written.
    """
    noted = {f["name"]: FileDigest(f["size"], f["digest"]) for f in storage.take_written()}
    entries = [e for e in storage.list(recursive=True) if e.name != MANIFEST_NAME and e.name.startswith(only)]
    entries = [e for e in entries if not e.name.startswith(leave_out)]
    for entry in entries:
        if entry.name in noted and noted[entry.name].size != entry.size:
            noted[entry.name].check(FileDigest(entry.size, ""), storage.uri_of(entry.name))
    unknown = [e.name for e in entries if e.name not in noted]
    with ThreadPoolExecutor(_THREADS) as pool:
        noted |= dict(zip(unknown, pool.map(storage.digest, unknown), strict=True))
    return [OutputFile(name=e.name, size=e.size, digest=noted[e.name].digest) for e in entries]


def verify_outputs(storage: Storage, outputs: Iterable[OutputFile]) -> list[FileProblem]:
    """Return problems that are cheap to detect: files that are missing or have the wrong size, and altered files among
    the smallest ones (_FULL_CHECK_BYTES in total)."""
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
    """Read the files, several at once, and return a problem for each that is missing or altered.

    Args:
        on_bytes: called with the size of every file that was read, from any thread.
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
    """Return the smallest files, at most _FULL_CHECK_BYTES and _FULL_CHECK_FILES."""
    chosen, total = [], 0
    for output in sorted(outputs, key=lambda o: o.size)[:_FULL_CHECK_FILES]:
        total += output.size
        if total > _FULL_CHECK_BYTES:
            break
        chosen.append(output)
    return chosen
