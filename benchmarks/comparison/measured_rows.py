"""A table of measurements that grows on disk while they are made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class MeasuredRows:
    """Measurements, written to disk immediately, so that nothing is lost if the machine is taken away; those of earlier
    calls with the same folder stay in its table."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        earlier = folder / "gpu.jsonl"
        self._rows: list[dict[str, Any]] = (
            [json.loads(line) for line in earlier.read_text().splitlines()] if earlier.exists() else []
        )

    def add(self, section: str, **figures: Any) -> None:
        row = {"section": section} | figures
        self._rows.append(row)
        print("  ".join(f"{name}={_shown(value)}" for name, value in row.items()), flush=True)
        with open(self._folder / "gpu.jsonl", "a") as out:
            out.write(json.dumps(row) + "\n")
        (self._folder / "gpu.md").write_text("\n\n".join(self._tables()) + "\n")

    def _tables(self) -> Iterator[str]:
        for section in dict.fromkeys(row["section"] for row in self._rows):
            rows = [{n: v for n, v in r.items() if n != "section"} for r in self._rows if r["section"] == section]
            names = list(dict.fromkeys(name for row in rows for name in row))
            lines = [names, ["---"] * len(names), *([_shown(row.get(n, "")) for n in names] for row in rows)]
            yield f"### {section}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(value: Any) -> str:
    return f"{value:,.3g}" if isinstance(value, float) and abs(value) < 1000 else (
        f"{value:,.0f}" if isinstance(value, float | int) and not isinstance(value, bool) else str(value)
    )  # fmt: skip
