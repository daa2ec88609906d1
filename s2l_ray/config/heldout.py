"""The section `heldout`: examples that neither the proxy nor a target is trained on, for the target's evaluation."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from s2l_ray.config.section import Location, Section


class HeldOutConfig(Section):
    share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the corpus to hold out, drawn by example id with the run's seed; the set is called `split`."""
    files: dict[str, list[Location]] = Field(default={})
    """Held-out sets of your own: a name and the files, in the corpus's format (`test: [data/test.jsonl]`)."""
    tokens_per_batch: int = Field(default=8192, ge=8)
    """Padded tokens evaluated at once."""

    @field_validator("files")
    @classmethod
    def _names(cls, files: dict[str, list[str]]) -> dict[str, list[str]]:
        for name, paths in files.items():
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == "split":
                raise ValueError(
                    f"{name!r} cannot name a held-out set (letters, digits, - and _; `split` is the corpus's own share)"
                )
            if not paths:
                raise ValueError(f"heldout.files.{name} names no file")
        return files
