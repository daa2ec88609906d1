"""A sweep whose selectors score with the target: one of it for all trials, whatever they try; and what a second sweep
repeats."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.api import SweepResult, sweep
from s2l_ray.artifacts.manifest import StageManifest, read_manifest
from s2l_ray.config import load_config
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.quiet import Quiet
from tests.support.sweep_run import manifests, tree

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(1800), pytest.mark.slow]


def scored(folder: Path, *overrides: str) -> tuple[SweepResult, str]:
    """Two of the target's snapshots."""
    made = tree(
        folder, selectors=["middle_perplexity", "random"], budgets=[0.1],
        parameters={"selection.reference.snapshot": ["early", "late"]},
    )  # fmt: skip
    made["selection"] = {"selectors": ["middle_perplexity"], "budgets": [0.1], "reference": {"model": "target"}}
    progress = Quiet()
    return sweep(load_config(made, overrides), progress=progress), progress.lines()


def manifests_of(storage: Storage, kind: str) -> list[StageManifest]:
    found = [read_manifest(storage.sub(f"{kind}/{name}")) for name in storage.folders(kind)]
    return [manifest for manifest in found if manifest is not None]


def test_one_target_scores_for_all_trials_and_a_second_sweep_repeats_nothing(finished: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.storage.local_path(), tmp_path / "run"))
    first, said = scored(folder)
    assert not first.failed, first.failed
    storage = first.run.storage
    [full] = [one for one in manifests_of(storage, "target") if one.stage == "target/full"]
    assert full.settings["seed"] == 0, "the full data's trial is the one that scores"
    scores = [one for one in manifests_of(storage, "signals") if "target" in one.inputs]
    assert {one.inputs["target"] for one in scores} == {full.content_fingerprint}
    steps = full.settings["total_steps"]
    assert sorted(one.settings["step"] for one in scores) == [-(-steps // 10), steps]
    chosen: dict[str, list[StageManifest]] = {"middle_perplexity": [], "random": []}
    for one in manifests_of(storage, "subset"):
        if one.extra["selector"] in chosen:
            chosen[one.extra["selector"]].append(one)
    read = {selector: {name for one in of for name in one.inputs if name.startswith("signals/")}
            for selector, of in chosen.items()}  # fmt: skip
    assert {selector: len(names) for selector, names in read.items()} == {"middle_perplexity": 2, "random": 0}
    assert len({one.content_fingerprint for one in chosen["middle_perplexity"]}) == 2, "both snapshots choose alike"

    proxy = first.run.stage("proxy").manifest.extra["flops"]
    training = proxy["training"] + full.extra["summary"]["flops"]
    assert first.report["cost"]["selection"]["flops"] > training + proxy["scoring"]

    before = manifests(folder)
    again, said = scored(folder)
    assert "5 trials, 5 of them already done" in said
    assert "[sweep] target 1/" not in said, "Ray Tune started a trial"
    assert manifests(folder) == before
    assert again.report == first.report

    other, said = scored(folder, "target.seed=7")
    assert "5 trials, 3 of them already done" in said, "what reads no scores of the target"
    assert not other.failed, other.failed
    new = [
        read_manifest(storage.sub(f"target/{path.parent.name}")) for path in manifests(folder).keys() - before.keys()
    ]
    assert [one.settings["seed"] for one in new if one is not None and one.stage == "target/full"] == [7]
