"""Stages as the runner makes them, and what it says of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from s2l_ray.artifacts.found import found_of_kind
from s2l_ray.artifacts.models import Artifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.runner import StageRunner
from s2l_ray.artifacts.stage import StageResult, StageSpec
from s2l_ray.config import load_config
from s2l_ray.observability.metrics_log import MetricsLog
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config


def build(out: Storage) -> StageResult:
    out.write_bytes("model", b"weights")
    return StageResult("c", {}, Artifact(), [f"look into {out.uri}/model"], summary=f"made → {out.uri}/model")


def ensure(folder: Path) -> list[str]:
    run = Run(load_config(tiny_run_config(folder)), Storage.open(folder))
    progress = Quiet()
    stage = StageRunner(run, progress, MetricsLog(run.storage)).ensure(StageSpec("made", {"a": 1}, {}, build))
    assert f"made → {stage.storage.uri}/model" == stage.summary
    return progress.lines().splitlines()


def test_a_run_that_was_moved_says_where_things_are_now(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert any(str(first) in line for line in ensure(first))
    shutil.move(first, second)
    told = ensure(second)
    assert [line for line in told if "unchanged, skipped" in line]
    assert not any(str(first) in line for line in told)
    assert sum(f"{second}/made/" in line for line in told) == 2, "the summary and the warning"


def test_stages_made_within_a_second_are_found_in_their_order(tmp_path):
    run = Run(load_config(tiny_run_config(tmp_path)), Storage.open(tmp_path))
    runner = StageRunner(run, Quiet(), MetricsLog(run.storage))
    made = [runner.ensure(StageSpec("made", {"a": a}, {}, build)).folder for a in range(8)]
    assert [found.folder for found in found_of_kind(run.storage, "made", [])] == made
