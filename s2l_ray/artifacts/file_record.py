"""Files and records of a run folder besides its stages: a JSON says what they were made from, with digests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from s2l_ray.artifacts.outputs import FileProblem, OutputFile, verify_outputs
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage


@dataclass
class FileRecord:
    """What was made, and the files."""

    of: dict[str, Any]
    """The settings or the source that they were made from; or, without files, what is recorded."""
    files: list[OutputFile] = field(default_factory=list)
    """Relative to the record's folder."""

    def write(self, folder: Storage, name: str) -> None:
        """Call it after the files."""
        folder.write_json(name, {**self._plain(), "digest": fingerprint(self._plain())})

    def problems(self, folder: Storage) -> list[FileProblem]:
        """As far as it is cheap to see, see outputs.verify_outputs."""
        return verify_outputs(folder, self.files)

    def _plain(self) -> dict[str, Any]:
        return {"of": self.of, "files": [f.model_dump() for f in self.files]}


def read_record(folder: Storage, name: str) -> FileRecord | None:
    """None if there is none, or none that can be trusted."""
    try:
        content = folder.read_json(name)
        record = FileRecord(dict(content["of"]), [OutputFile.model_validate(f) for f in content["files"]])
        return record if content["digest"] == fingerprint(record._plain()) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None
