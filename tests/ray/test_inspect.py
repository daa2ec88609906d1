"""`s2l inspect` compares like with like, and lists everything that belongs to the run."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import s2l_ray
from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.reporting.inspect import inspect_run
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config


def inspected(run: Run, **options: Any) -> str:
    out = io.StringIO()
    inspect_run(run, Console(file=out, width=230), **options)
    return out.getvalue()


@pytest.mark.parametrize(("which", "columns"), [("first", [0, 1]), ("even", [0, 3])])
def test_examples_are_compared_with_centroids_over_the_clusters_own_snapshots(finished, tmp_path, which, columns):
    folder = Path(shutil.copytree(finished.storage.local_path(), tmp_path / "run"))
    changes = {"clusters__num_snapshots": 2, "clusters__snapshots": which}
    run = s2l_ray.run(tiny_run_config(folder, **changes), progress=Quiet())
    shown = inspected(run, examples=1)
    assert "loss over 2 of 4 snapshots" in shown

    matrix, clusters = run.trajectories(), run.stage("clusters").storage
    messages = np.concatenate([
        run.stage("corpus").storage.read_table(f"examples/{part_name(part)}")["messages"].to_numpy()
        for part, _ in matrix.part_rows
    ])  # fmt: skip
    assignment = clusters.read_table("assignment.parquet")["cluster"].to_numpy()
    for k, centre in enumerate(clusters.read_table("centroids.parquet")["centroid_loss_nats"].to_pylist()):
        distances = ((matrix.losses[:, columns] - np.asarray(centre, np.float32)) ** 2).sum(axis=1)
        nearest = int(np.argmin(np.where(assignment == k, distances, np.inf)))
        assert messages[nearest][0]["content"].strip()[:30] in shown


def test_all_snapshots_are_called_all(finished):
    assert "loss over 4 snapshots" in inspected(finished)


def test_artifacts_of_the_same_name_are_listed_under_their_folders_names(finished, tmp_path):
    folder = Path(shutil.copytree(finished.storage.local_path(), tmp_path / "run"))
    for seed in (7, 8):
        s2l_ray.select(str(folder), 0.1, seed=seed, progress=Quiet())
    run = load_run(str(folder))
    assert len(run.others) == 2
    lines = inspected(run, clusters=1).splitlines()
    at = next(i for i, line in enumerate(lines) if "of the same names" in line)
    assert sorted(line.split()[0] for line in lines[at + 1 : at + 3]) == sorted(o.name for o in run.others)
    assert "of the same names" not in inspected(finished, clusters=1)
