"""One undisturbed run with targets, two held-out sets and the full data, that several files of tests look at."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import s2l_ray
from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.evaluation.heldout import SCORES
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl
from tests.support.colours import colour_rows

SUBSET = "s2l-0.3"
OVERLAP = 5
"""Rows of the held-out file that are in the corpus, or in its split, too."""


def tree_of(folder: Path) -> dict[str, Any]:
    rows = colour_rows(600, seed=0)
    write_jsonl(folder / "corpus.jsonl", [*rows, *rows[:50]])
    write_jsonl(folder / "test.jsonl", [*colour_rows(60, seed=1), *rows[:OVERLAP]])
    tree = tiny_run_config(
        folder / "run", proxy__epochs=1, trajectories__num_snapshots=2, clusters__num_clusters=5,
        selection__budgets=[0.3], heldout={"share": 0.1, "files": {"test": [str(folder / "test.jsonl")]}},
    )  # fmt: skip
    tree["corpus"] = {"paths": [str(folder / "corpus.jsonl")]}
    # Some twenty steps to the first answers that are right, some eighty to all that can be.
    tree["target"] = {**tree["proxy"], "subsets": [SUBSET, "full"], "length": "same_steps", "epochs": 5,
                      "learning_rate": 1e-2, "log_every_steps": 1}  # fmt: skip
    return tree


@pytest.fixture(scope="session")
def finished_target(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Run:
    """Whoever changes its folder sets it right again."""
    return s2l_ray.run(tree_of(tmp_path_factory.mktemp("target")), progress=Quiet())


def copy_of(run: Run, folder: Path) -> Path:
    """The run before its targets were trained."""
    copy = folder / "run"
    source = str(run.storage.local_path())
    later = {"target", "heldout_evaluation", "locks"}
    shutil.copytree(source, copy, ignore=lambda at, names: later & set(names) if at == source else set())
    return copy


def heldout_examples(run: Run, name: str) -> dict[bytes, dict[str, Any]]:
    rows = run.stage("heldout").storage.read_table(f"{name}.parquet").to_pylist()
    return {row["example_id"]: row for row in rows}


def evaluation_of(target: Stage) -> Stage:
    """A target's, by the run's manifests."""
    evaluation = load_run(str(target.storage.local_path().parents[1])).heldout_evaluation(target)
    assert evaluation is not None
    return evaluation


def scores(evaluation: Stage, name: str) -> dict[bytes, dict[str, Any]]:
    rows = evaluation.storage.read_table(SCORES).to_pylist()
    return {row["example_id"]: row for row in rows if row["heldout_set"] == name}


def exported(stage: Stage) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = stage.storage.local_path("model")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def after(stage: Stage, name: str = "split") -> dict[str, Any]:
    return evaluation_of(stage).manifest.extra["results"][name]
