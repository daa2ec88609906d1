"""Damaged runs: every command names the damaged file, what follows from it, and what would do; none ends in a crash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from s2l_ray.cli import main
from tests.support.report_runs import MadeRun
from tests.support.tiers import rest_thorough


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "x").touch()


def of_a_newer_version(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))


def other_json(path: Path) -> None:
    path.write_text("[1, 2]")


def with_a_changed_field(path: Path) -> None:
    path.write_text(path.read_text().replace('"wall_seconds": 1', '"wall_seconds": 2'))


Damage = Callable[[Path], None]
WAYS: list[Damage] = [folder, truncated, of_a_newer_version, empty, binary, other_json, with_a_changed_field]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    return MadeRun(folder, num_examples=150, num_clusters=2, targets=(), heldout={}).make()


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.mark.parametrize("damage", rest_thorough(WAYS, 3))
@pytest.mark.parametrize("stage", ["clusters", "subset"])
def test_a_damaged_manifest_is_named_with_its_cure(run, tmp_path, capsys, caplog, stage, damage):
    [manifest] = run.glob(f"{stage}/{'s2l-0.2-*' if stage == 'subset' else '*'}/manifest.json")
    damage(manifest)
    named, cures = f"{manifest.parent}: manifest.json", ("to have the stage run again", "Upgrade s2l_ray")
    for reading in (["inspect", "RUN"], ["report", "RUN", "--json"]):  # what is left can be seen
        caplog.clear()
        assert main([str(run) if word == "RUN" else word for word in reading]) == 0
        assert named in caplog.text
        assert any(cure in caplog.text for cure in cures)
    assert main(["verify", str(run)]) == 1
    assert f"bad: {named}" in capsys.readouterr().out
    needing = [["push", str(run), "--subset", "s2l-0.2", "me/x", "--dry-run", "--out", str(tmp_path / "out")]]
    if stage == "clusters":
        needing.append(["select", str(run), "--budget", "0.3"])
    for command in needing:
        assert main(command) == 2
        told = capsys.readouterr().err
        assert "not everything in that folder can be used: " in told
        assert named in told
        assert any(cure in told for cure in cures)


@pytest.mark.parametrize("damage", [truncated, empty, binary, folder])
def test_a_damaged_configuration_is_named_with_its_cure(run, capsys, damage):
    damage(run / "config.yaml")
    for command in ("inspect", "report", "select"):
        assert main([command, str(run), *(["--budget", "0.3"] if command == "select" else [])]) == 2
        told = capsys.readouterr().err
        assert f"{run}/config.yaml" in told
        assert "rewrites it; complete stages are kept" in told or "Move it away" in told
        assert "NoneType" not in told


def test_a_log_that_is_a_folder_is_a_refusal(run, capsys):
    folder(run / "metrics.jsonl")
    assert main(["select", str(run), "--budget", "0.3"]) == 2
    assert f"the run {run} cannot be written to: {run}/metrics.jsonl is a folder" in capsys.readouterr().err
