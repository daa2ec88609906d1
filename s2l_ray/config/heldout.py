"""The section `heldout`: examples that neither the proxy nor a target is trained on, for the target's evaluation."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from s2l_ray.config.section import Location, Section, bounded

QUICKSTART_SET = "balanced"
"""The quickstart's own held-out set, with the same number of examples of every skill."""
SPLIT = "split"
"""The set drawn from the corpus (`heldout.share`)."""
_MAX_SETS = 100


class HeldOutConfig(Section):
    share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the corpus to hold out, drawn by example id with the run's seed; the set is called `split`."""
    files: dict[str, list[Location]] = Field(default={})
    """Your own held-out sets: a name and its files, in the corpus's format (`test: [data/test.jsonl]`)."""
    tokens_per_batch: int = bounded(8192, 2**24, "a larger batch does not fit in any device's memory", ge=8)
    """Padded tokens evaluated at once."""

    def names(self, is_quickstart: bool) -> list[str]:
        """Names of all sets, in the order in which they are evaluated; the first one decides."""
        return [*self.files, *([QUICKSTART_SET] if is_quickstart else []), *([SPLIT] if self.share else [])]

    @field_validator("files")
    @classmethod
    def _names(cls, files: dict[str, list[str]]) -> dict[str, list[str]]:
        if len(files) > _MAX_SETS:
            raise ValueError(f"{len(files):,} sets are more than {_MAX_SETS}, each is evaluated every time; name fewer")
        for name, paths in files.items():
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name) or name == SPLIT:
                raise ValueError(
                    f"{name!r} cannot name a held-out set (at most 100 letters, digits, - and _; `split` is the "
                    "corpus's own share)"
                )
            if not paths:
                raise ValueError(f"heldout.files.{name} names no file")
        return files
