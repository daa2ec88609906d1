"""The wheel of this repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT


def build_wheel_in(folder: Path) -> None:
    """A wheel, by setuptools' own entry point: no network is asked for what is installed already."""
    program = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", program, str(folder)], cwd=_copy(folder / "source"),
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def _copy(folder: Path) -> Path:
    """Building leaves folders beside the sources."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        folder.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "s2l_ray", folder / "s2l_ray", ignore=shutil.ignore_patterns("__pycache__"))
    return folder
