"""A subset's files beside the rows: weights, stages, what a guard dropped, and what other programs are told."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2l_ray.artifacts.run import load_run
from s2l_ray.selection import needs_of, order_examples, resolve_options
from s2l_ray.stages.subset.build import SubsetStats, build_subset
from s2l_ray.stages.subset.inputs import InputsReader, SubsetSources
from s2l_ray.stages.subset.stage import SelectionReader
from s2l_ray.storage.folder import Storage
from tests.support.report_runs import MadeRun


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> SubsetSources:
    made = MadeRun(tmp_path_factory.mktemp("files") / "run", num_examples=400, targets=())
    run = load_run(str(made.make()))
    storage = {name: run.stage(name).storage for name in ("trajectories", "corpus", "clusters")}
    return SubsetSources(
        storage["trajectories"], made.parts, storage["corpus"].sub("examples"), storage["clusters"], "instruction",
        None, ["topic"], list(range(1, 1 + made.num_snapshots)),
    )  # fmt: skip


def build(
    sources: SubsetSources, out: Path, selector: str, budget: int = 120, **own: Any
) -> tuple[SubsetStats, Storage]:
    options, storage = resolve_options(selector, own), Storage.open(out)
    inputs = InputsReader(sources).read(needs_of(selector, options), with_facets=bool(options.guard.rules))
    ordering = order_examples(selector, inputs, 0, options)
    return build_subset(sources, inputs, ordering, options, budget, storage, wait_s=60, say=print), storage


def rows_of(out: Storage) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_bytes("subset.jsonl").splitlines()]


def test_weights_stand_for_the_cluster(sources, tmp_path):
    plain, _ = build(sources, tmp_path / "plain", "s2l")
    weighted, out = build(sources, tmp_path / "weighted", "s2l", weights="cluster", weights_cap=1000)
    rows, groups = rows_of(out), out.read_json("groups.json")
    by_cluster = {group["cluster"]: group["size"] / group["taken"] for group in groups}
    raw = np.array([by_cluster[row["s2l_cluster"]] for row in rows])
    np.testing.assert_allclose([row["s2l_weight"] for row in rows], raw / raw.mean(), rtol=1e-5)
    assert raw.std() > 0.05
    assert out.read_table("subset.parquet")["s2l_weight"].to_pylist() == [row["s2l_weight"] for row in rows]
    assert weighted.fingerprint != plain.fingerprint
    assert "ignore them" in out.read_bytes("train_with.md").decode()
    assert out.exists("dataset_info.json")


def test_a_curriculum_has_stages_and_no_other_program_is_told_how_to_shuffle_it(sources, tmp_path):
    _, out = build(sources, tmp_path, "confidence_curriculum", confidence="geometric", stages=4)
    rows = rows_of(out)
    assert {row["s2l_stage"]: 0 for row in rows} == dict.fromkeys(range(4), 0)
    last = [np.mean([row["s2l_loss_last"] for row in rows if row["s2l_stage"] == stage]) for stage in range(4)]
    assert last == sorted(last)
    assert "s2l_cluster" not in rows[0]
    assert not out.exists("dataset_info.json")
    guide = out.read_bytes("train_with.md").decode()
    assert "shuffle all rows" in guide
    assert "```" not in guide


def test_a_guards_tables_lie_beside_the_subset_and_its_warnings_are_handed_on(sources, tmp_path):
    stats, out = build(sources, tmp_path, "random", 400, guard={"rules": ["rise"], "max_rise_nats": 0.0})
    tables = out.read_json("guard.json")["tables"]
    assert set(tables) == {"source", "topic"}, "random looks at no clusters"
    assert any("rise found nothing" in warning for warning in stats.warnings)
    assert stats.num_ineligible == out.read_json("guard.json")["num_dropped"]
    plain, out = build(sources, tmp_path / "plain", "random", 400)
    assert not out.exists("guard.json")
    assert plain.warnings == []


def test_a_subset_is_weighted_where_its_table_has_weights(sources, tmp_path):
    weighted, out = build(sources, tmp_path / "weighted", "s2l", weights="cluster")
    plain, bare = build(sources, tmp_path / "plain", "s2l")
    assert [weighted.weighted, plain.weighted] == [True, False]
    assert "s2l_weight" in out.read_table("ids.parquet").column_names
    assert "s2l_weight" not in bare.read_table("ids.parquet").column_names


def test_what_a_reader_has_read_goes_with_it(sources):
    reader = InputsReader(sources)
    first = reader.read(["losses", "facet:topic"])
    again = reader.read(["losses", "facet:topic"])
    assert again.losses is first.losses
    assert again.facets["topic"] is first.facets["topic"]
    gone = weakref.ref(reader)
    del reader
    gc.collect()
    assert gone() is None


def test_an_ordering_is_not_taken_for_that_of_embeddings_of_another_width(tmp_path):
    run = load_run(str(MadeRun(tmp_path / "run", num_examples=400, targets=()).make()))
    reader = SelectionReader(run)

    def order(dim: int) -> Any:
        reference = run.config.selection.reference.model_copy(update={"embedding_dim": dim})
        selection = run.config.selection.model_copy(update={"reference": reference})
        return reader.order(run.config.model_copy(update={"selection": selection}), "random", 10)

    first = order(8)
    assert order(8) is first
    assert order(16) is not first
