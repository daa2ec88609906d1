"""Signals from the proxy's training to the selectors, without Ray: scored beside the loss or by a pass of its own."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from s2l_ray.artifacts.models import SignalsArtifact, TrajectoriesArtifact
from s2l_ray.artifacts.points import Point
from s2l_ray.artifacts.snapshots import read_snapshot, weights_folder
from s2l_ray.config.schema import ProxyConfig, TrajectoriesConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.training_order import make_plan
from s2l_ray.errors import InternalError
from s2l_ray.lm.load import train_tokenizer
from s2l_ray.lm.score import NonFiniteScore, Scorer
from s2l_ray.selection import list_selectors, needs_of, order_examples, resolve_options
from s2l_ray.selection.signals import EMBEDDINGS, LOSS, LOSS_UNCONDITIONAL, MIN_PROBABILITY, QUERY, SCALARS
from s2l_ray.stages.competence import competence_name
from s2l_ray.stages.proxy.job import ProxyJob
from s2l_ray.stages.proxy.loop import run_worker
from s2l_ray.stages.reference import SCORES
from s2l_ray.stages.signals.loop import SignalsJob, _table, run_pass
from s2l_ray.stages.signals.query import write_parts
from s2l_ray.stages.subset.inputs import InputsReader, QueryPart, SubsetSources
from s2l_ray.stages.subset.stage import SelectionReader
from s2l_ray.stages.trajectories.build import JoinTask
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import random_examples
from tests.support.scoring import TINY_PROXY, ScoringWorker, token_table
from tests.support.thread_workers import run_workers

PARTS, ROWS = 3, 40


def write_parts_of_corpus(folder: Storage) -> None:
    """The second part's first two sequences are of one example."""
    for part in range(PARTS):
        examples = random_examples(ROWS, seed=part, vocab=200, max_length=40)
        examples.mask[examples.offsets[:-1]] = False
        if part == 1:
            examples.ids[1] = examples.ids[0]
        folder.write_table(part_name(part), token_table(examples))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProxyJob, SubsetSources]:
    """A proxy with its scores, and the joined trajectories."""
    root = tmp_path_factory.mktemp("signals")
    tokens, out, joined = (Storage.open(root / name) for name in ("tokens", "proxy", "joined"))
    write_parts_of_corpus(tokens)
    proxy = ProxyConfig.model_validate(TINY_PROXY)
    plan = make_plan([(part, ROWS) for part in range(PARTS)], proxy.global_batch_size, 1, None, 0)
    points = (Point(0), Point(1), Point(plan.total_steps))
    tokenizer = train_tokenizer(iter(["the quick brown fox jumps over the lazy dog"] * 9), 280)
    trajectories = TrajectoriesConfig.model_validate({"num_snapshots": 3, "tokens_per_batch": 1024})
    job = ProxyJob(proxy, trajectories, plan, points, 0, tokenizer, tokens, out.recording(), kept=(1,))
    run_worker(job, ScoringWorker(root / "checkpoints"))
    snapshots = [snapshot for at in range(3) if (snapshot := read_snapshot(out, at))]
    task = JoinTask(tokens, out, snapshots, joined)
    rows = [(part, task(part)["rows"]) for part in range(PARTS)]
    assert rows == [(0, ROWS), (1, ROWS - 1), (2, ROWS)]
    clusters = Storage.open(root / "clusters")
    ids = pa.chunked_array([joined.read_table(part_name(part))["example_id"].combine_chunks() for part, _ in rows])
    numbers = pa.array(np.arange(len(ids), dtype=np.int32) % 5)
    clusters.write_table("assignment.parquet", pa.table({"example_id": ids, "cluster": numbers}))
    steps = [point.step for point in points]
    return job, SubsetSources(joined, rows, Storage.open(root), clusters, "alpaca", None, [], steps)


def made_pass(job: ProxyJob, column: str, out: Storage, files: tuple[str, ...], dim: int | None = None) -> Storage:
    wanted = SignalsJob(
        column, job.proxy, 1024, job.plan.parts, 0, job.tokenizer, job.out, files, dim, job.tokens,
        out.recording().sub("parts"),
    )  # fmt: skip
    done = run_pass(wanted, ScoringWorker())
    again = run_pass(dataclasses.replace(wanted), ScoringWorker())
    assert [one[2] for one in done["parts"]] == [one[2] for one in again["parts"]]
    return out


def files_of(job: ProxyJob, folder: str) -> tuple[str, ...]:
    return tuple(entry.name for entry in job.out.list(folder.rstrip("/")))


@pytest.mark.thorough
def test_every_selector_finds_what_it_needs(trained, tmp_path):
    job, sources = trained
    passes = {}
    for column in (*EMBEDDINGS, LOSS_UNCONDITIONAL):
        out = Storage.open(tmp_path / column)
        passes[f"{column}@late"] = made_pass(job, column, out, files_of(job, "model"))
    reader, num = InputsReader(sources), sum(rows for _, rows in sources.part_rows)
    for selector in list_selectors():
        own = {"num_clusters": 4} if selector.name == "embedding_kmeans" else {}
        guard = {"rules": ["prompt_gain", "local"], "min_kept_share": 0}
        options = resolve_options(selector.name, own, {"guard": guard})
        needs = needs_of(selector.name, options)
        query = QueryPart(passes["position_weighted_embedding@late"], [0], "position_weighted_embedding")
        found = {need: passes[need] for need in needs & passes.keys()}
        inputs = reader.read(needs, passes=found, query=query if QUERY in needs else None)
        ordering = order_examples(selector.name, inputs, 0, options)
        assert [len(ordering.take(budget).rows) for budget in (1, 50, num)] == [1, 50, num]
        assert ordering.guard is not None
        assert json.loads(json.dumps([ordering.notes, ordering.guard.to_json()])), "plain data, for the manifest"
        assert (inputs.clusters is not None) == selector.name.startswith("s2l")


def test_scalars_are_those_of_every_snapshot(trained):
    _, sources = trained
    reader = InputsReader(sources)
    every = reader.read([f"{name}@all" for name in SCALARS] + ["losses"])
    assert every.losses is not None
    assert (np.exp(-every.losses) <= every.signals["mean_probability@all"] + 1e-6).all()
    assert (every.signals["min_probability@all"] <= every.signals["mean_probability@all"] + 1e-6).all()
    for snapshot, column in (("start", 0), ("first", 0), ("early", 1), ("late", 2)):
        found = reader.read([f"el2n@{snapshot}"], early_share=0.1).signals[f"el2n@{snapshot}"]
        np.testing.assert_array_equal(found, every.signals["el2n@all"][:, column])


@pytest.mark.thorough
def test_weights_of_a_snapshot_on_the_way_are_kept_where_they_are_asked_for(trained, tmp_path):
    job, sources = trained
    found = {}
    for name, files in (("end", files_of(job, "model")), ("early", files_of(job, weights_folder(1))), ("start", ())):
        assert files or name == "start"
        passed = made_pass(job, "embedding", Storage.open(tmp_path / name), files, dim=16)
        inputs = InputsReader(sources).read(["embedding@late"], passes={"embedding@late": passed})
        reader = inputs.embeddings["embedding@late"]
        assert reader.shape == (inputs.num_examples, 16)
        found[name] = reader.read(0, inputs.num_examples)
        np.testing.assert_array_equal(np.concatenate([reader.read(0, 55), reader.read(55, 119)]), found[name])
        np.testing.assert_allclose(np.linalg.norm(found[name], axis=1), 1, atol=2e-3)
    assert np.abs(found["early"] - found["start"]).max() > 1e-4
    assert np.abs(found["end"] - found["early"]).max() > 1e-3


@pytest.mark.parametrize("column", [SCORES, *EMBEDDINGS, LOSS_UNCONDITIONAL])
def test_one_and_two_workers_compute_the_same_bits(trained, tmp_path, column):
    job, sources = trained
    dim, files, written = 16 if column in EMBEDDINGS else None, files_of(job, "model"), {}
    for num_workers in (1, 2):
        out = Storage.open(tmp_path / str(num_workers))
        wanted = SignalsJob(
            column, job.proxy, 1024, job.plan.parts, 0, job.tokenizer, job.out, files, dim, job.tokens,
            out.recording().sub("parts"),
        )  # fmt: skip
        done, workers = run_workers(num_workers, lambda worker, wanted=wanted: run_pass(wanted, worker))
        assert all(one["parts"] == done[0]["parts"] for one in done)
        scored = [sum(event.get("examples", 0) for event in worker.events) for worker in workers]
        assert sum(scored) == PARTS * ROWS
        assert min(scored) >= ROWS, "every worker has its share"
        written[num_workers] = [out.read_bytes(f"parts/{part_name(part)}") for part in range(PARTS)]
    assert written[1] == written[2]
    if column == SCORES:  # as in training, where the losses are scored at the same weights
        every = InputsReader(sources).read(["losses", *(f"{name}@all" for name in SCALARS)])
        tables = [Storage.open(tmp_path / "2").read_table(f"parts/{part_name(part)}") for part in range(PARTS)]
        for name in ("loss_nats", *SCALARS):
            expected = every.losses if name == "loss_nats" else every.signals[f"{name}@all"]
            assert expected is not None
            found = np.concatenate([table[name].to_numpy() for table in tables])
            np.testing.assert_array_equal(found, expected[:, -1])


def test_guards_are_told_of_the_proxys_competence_on_held_out_examples(trained, tmp_path):
    job, sources = trained
    held = Storage.open(tmp_path / "tokens")
    table = pa.concat_tables([job.tokens.read_table(part_name(part)) for part in (0, 2)])
    parts = write_parts(table, held)
    stages: dict[str, Any] = {}
    for step, folder in ((job.plan.total_steps, "model"), (1, weights_folder(1))):
        out = Storage.open(tmp_path / str(step))
        wanted = SignalsJob(
            SCORES, job.proxy, 1024, tuple(parts), 0, job.tokenizer, job.out, files_of(job, folder), None, held,
            out.recording().sub("parts"),
        )  # fmt: skip
        made = [(part, count) for part, count, _ in run_pass(wanted, ScoringWorker())["parts"]]
        extra = SignalsArtifact(parts=made, column=SCORES, step=step).model_dump()
        stages[f"signals/{competence_name(step)}"] = SimpleNamespace(
            storage=out, manifest=SimpleNamespace(extra=extra, stage="signals")
        )
    extra = TrajectoriesArtifact(parts=[], num_snapshots=3, signals="x").model_dump()
    known = SimpleNamespace(extra=extra, stage="trajectories")
    reader = SelectionReader(SimpleNamespace(stages=stages, stage=lambda _: SimpleNamespace(manifest=known)))  # type: ignore[arg-type]
    reader._reader = InputsReader(sources)
    record = reader._competence()
    assert record is not None
    every = InputsReader(sources).read(["losses", "token_accuracy@late"])
    assert every.losses is not None
    rows = [*range(ROWS), *range(2 * ROWS - 1, 3 * ROWS - 1)]  # the first part's and the third's
    assert record.losses == pytest.approx([every.losses[rows, at].mean() for at in (1, 2)], abs=1e-5)
    accuracy = every.signals["token_accuracy@late"]
    assert record.token_accuracy == pytest.approx(accuracy[rows].mean(), abs=1e-5)
    assert record.corpus_token_accuracy == pytest.approx(accuracy.mean(), abs=1e-5)
    reader._run = SimpleNamespace(stages={})  # type: ignore[assignment]
    assert reader._competence() is None


def test_sequences_of_an_example_count_by_the_tokens_that_have_a_loss():
    """Of the first example the second sequence is a response from its first token on, which has no context."""
    ids, mask = np.array([[1, 1], [1, 1], [2, 2]], np.uint64), np.ones(9, dtype=bool)
    mask[[0, 6]] = False
    examples = Examples(ids, np.zeros(9, np.int32), mask, np.array([0, 3, 6, 9]))
    found = _table(examples, {LOSS: np.array([1.0, 4.0, 5.0]), MIN_PROBABILITY: np.array([0.5, 0.2, 0.3])}, "proxy")
    assert found[LOSS].to_pylist() == [2.5, 5.0], "2 and 2 tokens"
    assert found[MIN_PROBABILITY].to_pylist() == pytest.approx([0.2, 0.3])
    alone = _table(examples, {LOSS_UNCONDITIONAL: np.array([1.0, 4.0, 5.0])}, "proxy")
    assert alone[LOSS_UNCONDITIONAL].to_pylist() == pytest.approx([(2 * 1 + 3 * 4) / 5, 5])


def test_a_target_that_diverged_is_told_by_its_own_settings(trained, tmp_path, monkeypatch):
    job, _ = trained
    target = TargetConfig.model_validate({k: v for k, v in TINY_PROXY.items() if k != "epochs"})
    broken = SignalsJob(
        SCORES, target, 1024, job.plan.parts, 0, job.tokenizer, job.out, (), None, job.tokens,
        Storage.open(tmp_path).recording(),
    )  # fmt: skip

    def overflowing(self, batch):
        return [torch.full((len(batch.rows),), np.inf)] * (1 + len(SCALARS))

    monkeypatch.setattr(Scorer, "_signals", overflowing)
    with pytest.raises(NonFiniteScore, match=r"The target has diverged or overflows: lower target\.learning_rate"):
        run_pass(broken, ScoringWorker())


def test_a_pass_over_other_examples_is_refused(trained, tmp_path):
    job, sources = trained
    out = made_pass(job, "embedding", Storage.open(tmp_path), files_of(job, "model"))
    table = out.read_table(f"parts/{part_name(0)}")
    out.write_table(f"parts/{part_name(0)}", table.take(np.arange(ROWS)[::-1]))
    with pytest.raises(InternalError, match="holds other examples"):
        InputsReader(sources).read(["embedding@late"], passes={"embedding@late": out})
