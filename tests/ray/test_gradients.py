"""`s2l gradients` on a finished run: computed once, compared again when a subset is added."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import s2l_ray
from s2l_ray.artifacts.models import GradientsArtifact
from s2l_ray.artifacts.run import RunError, load_run
from s2l_ray.cli import main
from s2l_ray.testing.quiet import Quiet


def test_a_finished_runs_gradients(finished, tmp_path, capsys):
    folder = str(Path(shutil.copytree(finished.storage.local_path(), tmp_path / "run")))
    assert main(["gradients", folder, "--dry-run"]) == 0
    told = capsys.readouterr().out
    num = finished.stage("trajectories").manifest.row_counts["trajectories"]
    assert f"{num} of {num} examples at start (step 0), last (step " in told
    assert "middle is skipped" in told
    with pytest.raises(RunError, match="includes middle"):
        s2l_ray.gradients(folder, ["gradients.snapshots=[middle]"], progress=Quiet())
    assert "gradients" not in load_run(folder).stages

    assert main(["gradients", folder, "--json", "gradients.num_examples=200"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in report["snapshots"]] == ["start", "last"]
    assert set(report["snapshots"][0]["similarity"]) == {"clusters", "sources", "embeddings"}
    assert set(report["snapshots"][1]["errors"]) == set(finished.subsets)
    run = load_run(folder)
    made = GradientsArtifact.of(run.stage("gradients"))
    assert (made.dim, made.num_examples) == (4096, report["num_sampled"])
    assert any("middle is skipped" in note for note in report["notes"])

    before = run.stage("gradients")
    s2l_ray.select(folder, 0.2, "least_confidence", progress=Quiet())
    check = s2l_ray.gradients(folder, ["gradients.num_examples=200"], progress=Quiet())
    assert set(check.report["snapshots"][0]["errors"]) == {*finished.subsets, "least_confidence-0.2"}
    assert check.verdict == check.report["verdict"]
    assert load_run(folder).stage("gradients").folder == before.folder, "no second pass"
    assert load_run(folder).stage("gradient-check").folder == check.folder != run.stage("gradient-check").folder
