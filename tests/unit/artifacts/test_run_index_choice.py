"""Of several artifacts of one name: which is the run's, and what becomes of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.index import earlier_targets
from s2l_ray.artifacts.manifest import read_manifest, write_manifest
from s2l_ray.artifacts.run import CONFIG, RunError, load_run
from s2l_ray.config import to_yaml
from s2l_ray.storage.folder import Storage
from tests.support.run_maker import Maker, whole


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "run")


def test_of_one_name_the_configured_seed_is_the_runs_and_the_others_are_kept_apart(maker):
    chain = whole(maker)
    for seed in (5, 6):
        maker.subset("s2l-0.1", chain, seed=seed)
    maker.subset("s2l-0.5", chain, seed=7)
    maker.subset("s2l-0.5", chain, seed=8)
    run = load_run(str(maker.folder))
    assert run.subsets["s2l-0.1"].manifest.settings["seed"] == 0
    assert run.subsets["s2l-0.5"].manifest.settings["seed"] == 8, "none is configured: the last"
    assert sorted(s.manifest.settings["seed"] for s in run.others) == [5, 6, 7]
    for other in run.others:
        assert other.name == other.folder
        assert run.subset(other.name.removeprefix("subset/")).folder == other.folder
    with pytest.raises(RunError, match=r"no subset 's2l-0\.4' \(available: s2l-0\.1, random-0\.1, s2l-0\.5\)"):
        run.subset("s2l-0.4")


@pytest.mark.thorough
def test_of_several_targets_the_configured_one_is_the_runs(maker):
    chain = maker.chain()
    subset, seeded = maker.subset("s2l-0.1", chain), maker.subset("s2l-0.1", chain, seed=5)
    maker.target("s2l-0.1", chain, subset)
    expected = load_run(str(maker.folder)).targets["s2l-0.1"].folder
    maker.target("s2l-0.1", chain, subset, learning_rate=1.0)
    maker.target("s2l-0.1", chain, subset, seed=1)
    maker.target("s2l-0.1", chain, seeded)
    run = load_run(str(maker.folder))
    assert run.targets["s2l-0.1"].folder == expected
    others = [s for s in run.others if s.name.startswith("target/")]
    assert len(others) == 3
    evaluations = [run.heldout_evaluation(target) for target in (run.targets["s2l-0.1"], *others)]
    assert len({e.folder for e in evaluations if e is not None}) == 4, "each has its own"


@pytest.mark.thorough
def test_of_several_evaluations_the_one_on_the_configured_held_out_sets_is_the_targets(maker):
    chain = maker.chain()
    target = maker.target("full", chain, None)
    sets = {}
    for names in (["balanced"], ["mine", "balanced"], ["other", "balanced"]):
        sets[names[0]] = maker.make("heldout", {"names": names}, {"corpus": chain["corpus"]})
        maker.evaluation("full", target, sets[names[0]])
    for files, expected in (({}, "balanced"), ({"mine": ["a"]}, "mine"), ({"none": ["a"]}, "other")):
        maker.storage.write_bytes(CONFIG, to_yaml(maker.use(heldout__files=files)).encode())
        run = load_run(str(maker.folder))
        evaluation = run.heldout_evaluation(run.targets["full"])
        assert evaluation is not None
        assert evaluation.manifest.inputs["heldout"] == sets[expected]
        assert run.stage("heldout").content == sets[expected]


@pytest.mark.thorough
def test_a_target_of_an_earlier_version_is_left_out_with_what_to_do(maker, caplog):
    chain = whole(maker)
    [folder] = (maker.folder / "target").glob("full-*")
    storage = maker.storage.sub(f"target/{folder.name}")
    manifest = read_manifest(storage)
    assert manifest is not None
    manifest.extra["evaluation"] = {"split": {}}
    write_manifest(storage, manifest)
    run = load_run(str(maker.folder))
    assert list(run.targets) == ["s2l-0.1"]
    assert not run.others
    [said] = {record.getMessage() for record in caplog.records if folder.name in record.getMessage()}
    assert earlier_targets(maker.storage, "full") == [said], "before it is trained again, too"
    assert earlier_targets(maker.storage, "s2l-0.1") == []
    for piece in ("is left out: it was trained by an earlier s2l_ray", "Its model is intact", "trains a new target"):
        assert piece in said
    maker.target("full", chain, None, learning_rate=1.0)
    assert "full" in load_run(str(maker.folder)).targets


WEIGHTED: dict[str, Any] = {"weighted": True, "options": {"weights": "cluster"}}


@pytest.mark.parametrize("weighted_first", [False, True])
@pytest.mark.parametrize("configured", [{}, {"selection__weights": "cluster"}])
def test_a_target_of_weighted_examples_is_not_taken_for_one_of_the_same_without(maker, configured, weighted_first):
    maker.storage.write_bytes(CONFIG, to_yaml(maker.use(**configured)).encode())
    chain = maker.chain()
    made = {}
    for marks in [WEIGHTED, {}] if weighted_first else [{}, WEIGHTED]:
        made[bool(marks)] = maker.marked(chain, **marks)
    run = load_run(str(maker.folder))
    subset, target = made[bool(configured)]
    assert run.subsets["s2l-0.1"].content == subset
    assert run.targets["s2l-0.1"].content == target
    assert run.stage("target-tokens/s2l-0.1").manifest.inputs["subset"] == subset


@pytest.mark.parametrize("replay", ["cumulative", "none"])
def test_a_target_of_other_stages_or_another_replay_is_not_taken_for_the_configured_one(maker, replay):
    """Only the target says which replay it was trained with: the subsets' examples and stages are the same."""
    chain = maker.chain()
    made = {}
    for one in ("cumulative", "none"):
        made[one] = maker.marked(chain, stages=3, options={"replay": one})
    newest = next(p for p in maker.folder.glob("subset/*") if read_option(p) == replay)
    touch(newest)
    run = load_run(str(maker.folder))
    assert read_option(maker.folder / run.subsets["s2l-0.1"].folder) == replay
    assert run.targets["s2l-0.1"].content == made[replay][1]


def read_option(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["settings"]["options"]["replay"])


def touch(folder: Path) -> None:
    """Make it the one finished last."""
    storage = Storage.open(folder)
    manifest = read_manifest(storage)
    assert manifest is not None
    write_manifest(storage, manifest.model_copy(update={"finished_at": "2026-01-02T00:00:00+00:00"}))


def test_evaluations_of_targets_that_are_no_longer_the_runs_are_not_shown(maker):
    chain = whole(maker)
    corpus = {"corpus": chain["corpus"]}
    target = load_run(str(maker.folder)).targets["full"].content
    for label, model in (("full", target), ("full", "an earlier one"), ("s2l-0.3", "of a subset that is gone"),
                         ("base", "b"), ("model-other", "m")):  # fmt: skip
        inputs = corpus | {"model": model}
        maker.make(f"evaluation/{label}/mcq", {}, inputs, f"evaluation/{label}-mcq")
    shown = [name for name in load_run(str(maker.folder)).stages if name.startswith("evaluation/")]
    assert shown == ["evaluation/base/mcq", "evaluation/full/mcq", "evaluation/model-other/mcq"]
