"""What is in a wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.paths import ROOT


def test_the_wheel_holds_licence_recipes_and_types(tmp_path: Path):
    # Setuptools' own entry point: no network is asked for what is installed already.
    built = subprocess.run(
        [
            sys.executable, "-c",
            "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])", str(tmp_path),
        ],
        cwd=_copy(tmp_path / "source"), capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        licence = next(n for n in names if n.endswith(".dist-info/licenses/LICENSE"))
        assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
        metadata = wheel.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode()
    assert "License-Expression: Apache-2.0" in metadata
    recipes = {f"s2l_ray/config/recipes/{p.name}" for p in (ROOT / "s2l_ray/config/recipes").glob("*.yaml")}
    page = {f"s2l_ray/reporting/report.{ending}" for ending in ("html.j2", "css", "js")}
    assert {"s2l_ray/py.typed", "s2l_ray/cli/__init__.py", "s2l_ray/config/schema.json", *recipes, *page} <= set(names)
    assert not [n for n in names if n.startswith("tests/")]


def test_the_licence_is_the_one_that_is_declared():
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
    assert "9. Accepting Warranty or Additional Liability." in text


def _copy(folder: Path) -> Path:
    """Building leaves folders beside the sources."""
    import shutil

    for name in ("pyproject.toml", "README.md", "LICENSE"):
        folder.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "s2l_ray", folder / "s2l_ray", ignore=shutil.ignore_patterns("__pycache__"))
    return folder
