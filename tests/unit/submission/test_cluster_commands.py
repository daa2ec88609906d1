"""cluster_configs/: no secret in any file, and every command in them can be run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from s2l_ray.config import ResourcesConfig
from tests.support.cluster_files import AWS, FOLDER, LAUNCHERS, MY_YAML, commands, load, name, runnable
from tests.support.paths import ROOT

FILES = sorted(p for p in FOLDER.rglob("*") if p.is_file())


SECRET = re.compile(
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bhf_[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|AccountKey=|\bAIza[0-9A-Za-z_-]{30,}"
    r"|(?i:secret|token|password|access_?key)[\"']?\s*[:=]\s*[\"']?(?=[A-Za-z0-9/+_-]*[0-9])[A-Za-z0-9/+_-]{16,}"
)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_secret_and_nothing_open(path: Path) -> None:
    assert not SECRET.search(path.read_text())
    assert not re.search(r"0\.0\.0\.0/0|::/0", path.read_text())


@pytest.mark.parametrize(
    "line",
    [
        "AWS_ACCESS_KEY_ID: AKIAIOSFODNN7EXAMPLE",
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "token: 5f0c7e8a91b24d6e8f3a",
        "HF_TOKEN=hf_" + "a" * 34,
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_secrets_are_found(line: str) -> None:
    assert SECRET.search(line)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_commands_in_comments_can_be_run(path: Path) -> None:
    runnable(commands(path))


def test_commands_are_found() -> None:
    for path in LAUNCHERS:
        told = commands(path)
        for command in ("ray up", "ray dashboard", "ray job submit", "ray down"):
            assert [c for c in told if c.startswith(command)], f"{path.name} does not tell {command}"
        assert all(path.name in c for c in told if c.startswith(("ray up", "ray down", "ray dashboard")))
    for broken in (
        "ray up cluster_configs/no.yaml",
        "s2l fly my.yaml",
        "ray job submit -- s2l run no_recipe",
        "ray job submit --working-dir . -- s2l run my.yaml resources.may_grwo=true",
        "pip install -c constraints.txt -r jobs/no.txt",
    ):
        with pytest.raises((AssertionError, ValueError)):
            runnable([broken])


def test_one_ray_version() -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    text = "".join(path.read_text() for path in FILES)
    # In prose, in rayVersion and in the images' tags.
    assert set(re.findall(r"(?:Ray|rayVersion:|rayproject/ray:)[ \"]*(\d+\.\d+\.\d+)", text)) == {pinned[1]}
    assert f"pins Ray to {pinned[1]} " in text


def test_readme_knows_the_files() -> None:
    named = set(re.findall(r"`([\w/]+\.(?:yaml|sh)|kuberay/Dockerfile)`", (FOLDER / "README.md").read_text()))
    assert named - MY_YAML == {name(p) for p in FILES if p.name != "README.md"}


def test_readmes_resources_are_valid_and_fit_the_nodes() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    resources = ResourcesConfig(**yaml.safe_load(block)["resources"])
    types = load(AWS)["available_node_types"].values()
    for workers in (resources.proxy, resources.target):
        (node,) = (t for t in types if f"accelerator_type:{workers.accelerator_type}" in t["resources"])
        assert workers.workers is not None
        assert workers.workers * workers.gpus_per_worker <= node["max_workers"] * node["resources"]["GPU"]
