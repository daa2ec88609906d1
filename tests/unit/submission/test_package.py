"""The package: what is in a wheel, in the image and beside them; a wheel in an environment of its own."""

from __future__ import annotations

import importlib.metadata
import os
import re
import zipfile
from pathlib import Path

import pytest
import yaml

import s2l_ray
from tests.support.paths import ROOT
from tests.support.wheel import build_wheel_in, git_repository_in


@pytest.mark.thorough
def test_the_wheel_holds_licence_recipes_and_types(tmp_path: Path):
    build_wheel_in(tmp_path)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        licence = next(n for n in names if n.endswith(".dist-info/licenses/LICENSE"))
        assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
        metadata = wheel.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert f"\nVersion: {s2l_ray.LAST_RELEASE}\n" in metadata  # the copy has no git
    recipes = {f"s2l_ray/config/recipes/{p.name}" for p in (ROOT / "s2l_ray/config/recipes").glob("*.yaml")}
    page = {f"s2l_ray/reporting/report.{ending}" for ending in ("html.j2", "css", "js")}
    assert {"s2l_ray/py.typed", "s2l_ray/cli/__init__.py", "s2l_ray/config/schema.json", *recipes, *page} <= set(names)
    assert not [n for n in names if n.startswith("tests/")]


def test_the_licence_is_the_one_that_is_declared():
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
    assert "9. Accepting Warranty or Additional Liability." in text


def test_citation_changelog_and_builds_without_tags_name_the_last_release():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version"} <= set(citation)
    assert citation["version"] == s2l_ray.LAST_RELEASE
    changes = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert s2l_ray.LAST_RELEASE in changes[:2]
    assert changes[0] in ("Unreleased", s2l_ray.LAST_RELEASE)
    fallback = re.search(r'^fallback_version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert fallback is not None
    assert fallback[1] == s2l_ray.LAST_RELEASE


@pytest.mark.thorough
@pytest.mark.parametrize(("tags", "commits", "version"), [
    (["v1.2.3"], 0, r"1\.2\.3"), (["v1.2.3"], 2, r"1\.2\.3\.post1\.dev2\+g[0-9a-f]+"),
    ([], 0, re.escape(s2l_ray.LAST_RELEASE) + r"\.post1\.dev1\+g[0-9a-f]+"),
])  # fmt: skip
def test_a_version_is_a_tag_or_counts_from_the_last(tmp_path: Path, tags: list[str], commits: int, version: str):
    git_repository_in(tmp_path / "source", tags, commits)
    build_wheel_in(tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    assert re.fullmatch(version, wheel.name.split("-")[1]), wheel.name


def test_a_copy_that_is_not_installed_has_the_last_releases_version(monkeypatch: pytest.MonkeyPatch):
    assert s2l_ray.__version__ == importlib.metadata.version("s2l_ray")

    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert s2l_ray.__version__ == s2l_ray.LAST_RELEASE


def test_ci_runs_what_developers_run():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in steps
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_ci_has_every_python_that_is_declared():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    given = [
        step.get("with", {}).get("python-version", "") for job in workflow["jobs"].values() for step in job["steps"]
    ]
    tested = {version for version in given if re.fullmatch(r"3\.\d+", version)}
    tested |= {one["python"] for one in workflow["jobs"]["pythons"]["strategy"]["matrix"]["include"]}
    declared = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert tested == set(declared)
    minimum = re.search(r'^requires-python = ">=(3\.\d+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert minimum is not None
    assert minimum[1] == declared[0]


def test_the_image_copies_what_there_is_and_its_extras_are_declared():
    text = (ROOT / "Dockerfile").read_text()
    sent = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()]
    assert set(copied) == sent
    assert all((ROOT / name).exists() for name in copied)
    declared = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for extras in re.findall(r"EXTRAS=([\w,]+)", text):
        assert set(extras.split(",")) <= set(declared), extras
