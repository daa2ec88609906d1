"""The pages of README and manual, and what stands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.support.paths import ROOT

__all__ = ["PAGES", "ROOT", "blocks", "commands", "prose", "run_example"]

PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md",
    ROOT / "cluster_configs/README.md", *sorted((ROOT / "docs").rglob("*.md")),
]  # fmt: skip


def blocks(page: Path, language: str = "") -> list[str]:
    """Contents of the page's fenced blocks of this language."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```([\w-]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for name, content in fenced if name == language]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def run_example(section: str) -> None:
    """The program of a section of the page on extending, as if it were a module of somebody's."""
    page = ROOT / "docs/extending.md"
    text = page.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    program = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    exec(compile(program, str(page), "exec"), {"__name__": "outside"})


def commands(page: Path) -> list[list[str]]:
    """Every command of the page's plain blocks; what stands for more (`…`) is left out."""
    found = []
    for block in blocks(page):
        if "►" in block or "<key>/" in block:  # the way of the data, a run's folder
            continue
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.partition(" #")[0].split("&&"):
                words = [word for word in shlex.split(part) if word != "…"]
                found += [words] if words else []
    return found
