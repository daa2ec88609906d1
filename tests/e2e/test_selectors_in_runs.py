"""Every selector in a run, and one registered outside: what is scored for them, what they leave, what trains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s2l_ray
from s2l_ray.artifacts.models import SubsetArtifact, TrajectoriesArtifact
from s2l_ray.artifacts.run import part_rows
from s2l_ray.config import load_config
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.quickstart import generate_corpus
from s2l_ray.data.trajectories import load_columns
from s2l_ray.selection import MissingSignal, list_selectors, registry
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import write_jsonl
from s2l_ray.workflow import commands
from tests.support.docs import run_example

pytestmark = pytest.mark.usefixtures("ray_cluster")
NAMES = [selector.name for selector in list_selectors() if selector.name != "random_per_source"]

TASK = generate_corpus(600)[0][:3]
"""Three rows of the corpus."""


@pytest.fixture(scope="module")
def run(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The shared run with all selectors added."""
    folder = tmp_path_factory.mktemp("selectors") / "run"
    shutil.copytree(finished.storage.local_path(), folder)
    tree = finished.config.model_dump(mode="json") | {"run_dir": str(folder)}
    tree["selection"] |= {
        "selectors": NAMES, "budgets": [0.1, 0.3], "weights": "cluster",
        "options": {"embedding_kmeans": {"num_clusters": 6}, "least_confidence": {"guard": {"rules": ["prompt_gain"]}}},
    }  # fmt: skip
    tree["selection"]["guard"] = {"min_kept_share": 0.2}
    tree["selection"]["query"] = {"paths": [str(write_jsonl(folder.parent / "task.jsonl", TASK))]}
    return s2l_ray.run(tree, progress=Quiet())


def chosen(run: Any, name: str) -> set[str]:
    lines = run.subset(name).storage.read_bytes("subset.jsonl").splitlines()
    return {json.loads(line)["s2l_id"] for line in lines}


def test_a_selector_that_is_added_later_has_only_what_is_missing_computed(run):
    made = {name for name, stage in run.stages.items() if not stage.reused}
    [last] = {s["step"] for s in run.stage("proxy").manifest.extra["snapshots"][-1:]}
    [query] = {name for name in made if name.startswith("signals/query-")}
    assert query.endswith(f"-position_weighted_embedding@{last}")
    assert {name for name in made if not name.startswith("subset/")} == {
        f"signals/embedding@{last}", f"signals/loss_unconditional@{last}",
        f"signals/position_weighted_embedding@{last}", query,
    }  # fmt: skip
    assert run.stage("subset/s2l-0.1").manifest.settings.get("options") == {"weights": "cluster"}


@pytest.mark.parametrize("name", NAMES)
def test_every_selectors_subsets_are_exact_and_nested(run, name):
    num = run.stage("corpus").manifest.row_counts["examples"]
    small, large = chosen(run, f"{name}-0.1"), chosen(run, f"{name}-0.3")
    assert (len(small), len(large)) == (int(0.1 * num + 0.5), int(0.3 * num + 0.5))
    assert small < large
    reads = set(run.subset(f"{name}-0.1").manifest.inputs)
    assert ("clusters" in reads) == name.startswith("s2l")
    assert {"corpus", "trajectories"} <= reads


def test_signals_are_finite_and_differ_between_examples(run):
    stage = run.stage("trajectories")
    assert TrajectoriesArtifact.of(stage).signals
    columns = {
        name: load_columns(stage.storage, part_rows(stage), name, 4)
        for name in ("loss_nats", "mean_probability", "min_probability", "token_accuracy", "el2n")
    }
    assert (columns["min_probability"] <= columns["mean_probability"] + 1e-6).all()
    assert (
        np.exp(-columns["loss_nats"]) <= columns["mean_probability"] + 1e-5
    ).all()  # geometric below arithmetic mean
    for values in columns.values():
        assert np.isfinite(values).all()
        assert len(np.unique(values[:, -1])) > 2
    [unconditional] = [stage for name, stage in run.stages.items() if name.startswith("signals/loss_unconditional")]
    tables = [unconditional.storage.read_table(f"parts/{part_name(p)}") for p, _ in part_rows(unconditional)]
    alone = np.concatenate([table["loss_unconditional"].to_numpy() for table in tables])
    assert len(alone) == len(columns["loss_nats"])
    assert (alone > columns["loss_nats"][:, -1]).mean() > 0.6, "a prompt helps with most answers"


def test_the_hardest_examples_are_chosen_by_the_stored_signal(run):
    stage = run.stage("trajectories")
    ids = run.trajectories().ids
    mean = load_columns(stage.storage, part_rows(stage), "mean_probability", 4).astype(float).mean(axis=1)
    hardest = np.lexsort((ids[:, 1], ids[:, 0], mean))[: int(0.1 * len(ids) + 0.5)]
    wanted = {f"{int(high):016x}{int(low):016x}" for high, low in ids[hardest]}
    assert chosen(run, "cartography_hard-0.1") == wanted


def test_examples_of_the_task_choose_what_is_nearest_to_them(run):
    nearest = run.subset("rds_plus-0.1")
    rows = [json.loads(line) for line in nearest.storage.read_bytes("subset.jsonl").splitlines()]
    first = {row["instruction"] for row in rows if row["s2l_rank"] < len(TASK)}
    assert first == {row["instruction"] for row in TASK}, "they are in the corpus, and nothing is nearer"
    assert SubsetArtifact.of(nearest).notes["queries"] == len(TASK)
    again = s2l_ray.select(run.storage.uri, 5, "rds_plus", progress=Quiet())
    assert chosen(s2l_ray.load_run(run.storage.uri), "rds_plus-5") < chosen(run, "rds_plus-0.1"), again.folder
    Path(run.config.selection.query.paths[0]).write_text(json.dumps(TASK[0]))
    with pytest.raises(MissingSignal, match=r"query_embeddings \(name your examples of the task in selection\.query"):
        s2l_ray.select(run.storage.uri, 5, "rds_plus", progress=Quiet())


def test_files_and_manifests_say_what_the_guard_dropped_and_what_examples_weigh(run):
    robust = run.subset("s2l_robust-0.3")
    artifact = SubsetArtifact.of(robust)
    assert artifact.guard is not None
    assert set(artifact.guard["dropped_by_rule"]) == {"rise", "not_learnt"}
    tables = robust.storage.read_json("guard.json")["tables"]
    assert {"source", "cluster"} <= set(tables)
    assert sum(line["dropped"] for line in tables["cluster"]) == artifact.guard["num_dropped"]
    rows = [json.loads(line) for line in run.subset("s2l-0.3").storage.read_bytes("subset.jsonl").splitlines()]
    weights = np.array([row["s2l_weight"] for row in rows])
    assert weights.mean() == pytest.approx(1, abs=1e-3)
    assert weights.std() > 0.1
    assert "s2l_weight" in run.subset("s2l-0.3").storage.read_bytes("train_with.md").decode()
    curriculum = run.subset("confidence_curriculum-0.3")
    stages = [json.loads(line)["s2l_stage"] for line in curriculum.storage.read_bytes("subset.jsonl").splitlines()]
    assert set(stages) == set(range(5))
    assert not curriculum.storage.exists("dataset_info.json")
    assert SubsetArtifact.of(run.subset("facility_location-0.3")).notes["solver"] in ("knn", "exact")


def test_a_selector_whose_signals_are_missing_says_which_and_what_makes_them(finished, tmp_path):
    folder = str(shutil.copytree(finished.storage.local_path(), tmp_path / "run"))
    with pytest.raises(MissingSignal, match=r"embedding@late .*list the selector in selection\.selectors"):
        s2l_ray.select(folder, 0.2, "facility_location", progress=Quiet())
    assert s2l_ray.select(folder, 0.2, "forgetting", progress=Quiet()).num_examples


def test_targets_train_weights_and_stages(run):
    target = run.config.proxy.model_dump(mode="json") | {"max_steps": 12, "checkpoint_every_steps": 5}
    overrides = [f"target={json.dumps(target)}", "target.zero_stage=0"]
    said = Quiet()
    for name, word in (("confidence_curriculum", "5 stages, each with those before it"), ("s2l", "weigh as many")):
        trained = s2l_ray.finetune(run.storage.uri, None, overrides, budget=0.3, selector=name, progress=said)
        assert word in said.lines()
        assert trained.manifest.inputs["subset"] == run.subset(f"{name}-0.3").content


def test_the_target_is_the_reference_where_it_is_paid_for(run, tmp_path):
    folder = shutil.copytree(run.storage.local_path(), tmp_path / "run")
    model = run.config.proxy.model_dump(mode="json") | {"max_steps": 12, "checkpoint_every_steps": 5}
    tree = run.config.model_dump(mode="json") | {"run_dir": str(folder), "target": model | {"zero_stage": 0}}
    tree["selection"] = {
        "selectors": ["middle_perplexity"], "budgets": [0.1], "reference": {"model": "target", "snapshot": "early"}
    }  # fmt: skip
    made = commands.run(tree, select_only=True, progress=Quiet())
    assert {name for name, stage in made.stages.items() if not stage.reused} >= {"target/full"}
    assert "full" in made.targets
    [name] = [name for name in made.stages if name.startswith("signals/target-")]
    assert name.endswith("-scores@2")
    assert name in made.subset("middle_perplexity-0.1").manifest.inputs
    assert chosen(made, "middle_perplexity-0.1") != chosen(run, "middle_perplexity-0.1")
    assert s2l_ray.select(str(folder), 9, "middle_perplexity", progress=Quiet()).num_examples == 9


def test_a_selector_from_outside_runs_end_to_end(finished, tmp_path, monkeypatch):
    known = dict(registry._selectors())
    monkeypatch.setattr(registry, "_selectors", lambda: known)
    run_example("A selector")
    folder = shutil.copytree(finished.storage.local_path(), tmp_path / "run")
    tree = finished.config.model_dump(mode="json") | {"run_dir": str(folder)}
    tree["selection"] |= {"selectors": ["highest_loss"], "budgets": [25]}
    made = s2l_ray.run(load_config(tree), progress=Quiet())
    subset = made.subset("highest_loss-25")
    losses = finished.trajectories().losses[:, -1]
    mine = [json.loads(line)["s2l_loss_last"] for line in subset.storage.read_bytes("subset.jsonl").splitlines()]
    assert sorted(mine) == pytest.approx(np.sort(losses)[-25:].tolist())
    assert "clusters" not in subset.manifest.inputs
    assert s2l_ray.run(load_config(tree), progress=Quiet()).stages["subset/highest_loss-25"].reused
    more = s2l_ray.select(str(folder), 30, "highest_loss", progress=Quiet())
    assert more.num_examples == 30
    assert Path(folder, more.folder).is_dir()
