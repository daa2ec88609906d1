"""Files of a run folder outside its stages, with JSON records of what they were made from and their digests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from s2l_ray.artifacts.outputs import FileProblem, OutputFile, verify_outputs
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage

RESULTS_RECORD = "files.json"
"""Record in `sweep/` of the results of a sweep."""


@dataclass
class FileRecord:
    """Record of files and what they were made from."""

    of: dict[str, Any]
    """Settings or source from which the files were made; without files, the recorded data."""
    files: list[OutputFile] = field(default_factory=list)
    """Files, named relative to the record's folder."""

    def write(self, folder: Storage, name: str) -> None:
        """Write the record; call this after writing the files."""
        folder.write_json(name, {**self._plain(), "digest": fingerprint(self._plain())})

    def problems(self, folder: Storage) -> list[FileProblem]:
        """Return problems with the files that are cheap to detect; see outputs.verify_outputs."""
        return verify_outputs(folder, self.files)

    def _plain(self) -> dict[str, Any]:
        return {"of": self.of, "files": [f.model_dump() for f in self.files]}


def read_record(folder: Storage, name: str) -> FileRecord | None:
    """Read a record; None if there is none, or it was altered."""
    try:
        content = folder.read_json(name)
        record = FileRecord(dict(content["of"]), [OutputFile.model_validate(f) for f in content["files"]])
        return record if content["digest"] == fingerprint(record._plain()) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None
