"""The wheel of this repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.paths import ROOT


def build_wheel_in(folder: Path) -> None:
    """A wheel of a copy in `folder`/source, by setuptools' own entry point: no network is asked for what is installed
    already."""
    program = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", program, str(folder)], cwd=_copy(folder / "source"),
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def git_repository_in(folder: Path, tags: Sequence[str], commits: int) -> None:
    """One with a commit of these tags, and so many empty commits after it."""

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True)

    folder.mkdir()
    git("init", "-q")
    (folder / ".gitignore").write_text("*\n")  # what is copied there later makes no other version
    git("add", "-f", ".gitignore")
    git("commit", "-q", "-m", "first")
    for tag in tags:
        git("tag", tag)
    for i in range(commits):
        git("commit", "-q", "--allow-empty", "-m", str(i))


def _copy(folder: Path) -> Path:
    """Building leaves folders beside the sources."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        folder.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "s2l_ray", folder / "s2l_ray", ignore=shutil.ignore_patterns("__pycache__"))
    return folder
