"""The gradient check without Ray: from tokens and weights to findings; workers, parts and the order change nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from s2l_ray.config.schema import ProxyConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_hex, array_to_ids, ids_to_array
from s2l_ray.data.token_examples import Examples
from s2l_ray.errors import InternalError
from s2l_ray.lm.example_gradients import HeadGradients
from s2l_ray.lm.load import load_model, train_tokenizer
from s2l_ray.lm.score import NonFiniteScore
from s2l_ray.stages.gradients import loop
from s2l_ray.stages.gradients.check import CheckSources, SubsetToCheck, check_gradients, read_sample
from s2l_ray.stages.gradients.loop import GradientsJob, Weights, run_pass
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import random_examples
from tests.support.scoring import TINY_PROXY, ScoringWorker, write_tokens
from tests.support.thread_workers import run_workers

NUM, CLUSTERS = 300, 5


def corpus(num: int = NUM) -> Examples:
    """The first two sequences are of one example."""
    examples = random_examples(num, vocab=200, max_length=40)
    examples.mask[examples.offsets[:-1]] = False
    examples.ids[1] = examples.ids[0]
    return examples


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> GradientsJob:
    """At the start, and by other weights that were stored."""
    root = tmp_path_factory.mktemp("gradients")
    tokens, model = Storage.open(root / "tokens"), Storage.open(root / "proxy")
    tokenizer = train_tokenizer(iter(["the quick brown fox jumps over the lazy dog"] * 9), 280)
    proxy = ProxyConfig.model_validate(TINY_PROXY)
    load_model(proxy, tokenizer, seed=7).save_pretrained(root / "proxy" / "model")
    files = tuple(entry.name for entry in model.list("model"))
    parts = write_tokens(tokens, corpus(), 64)
    ids = np.unique(corpus().ids, axis=0)
    ids = ids[np.lexsort((ids[:, 1], ids[:, 0]))]
    snapshots = (Weights("start", 0, ()), Weights("last", 9, files))
    return GradientsJob(
        "head", snapshots, ids, 0, proxy, 0, 1024, parts, tokenizer, model, tokens, Storage.open(root / "out")
    )


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHUNK_EXAMPLES", 64)


def computed(job: GradientsJob, out: Path, **changes: Any) -> tuple[GradientsJob, dict[str, Any]]:
    made = dataclasses.replace(job, out=Storage.open(out).recording(), **changes)
    return made, run_pass(made, ScoringWorker())


@pytest.fixture(scope="module")
def made(job: GradientsJob, tmp_path_factory: pytest.TempPathFactory) -> tuple[GradientsJob, dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHUNK_EXAMPLES", 64)
        return computed(job, tmp_path_factory.mktemp("made"))


def gradients_of(job: GradientsJob, snapshot: str) -> np.ndarray:
    tables = [job.out.read_table(f"{snapshot}/{part_name(chunk)}") for chunk in range(job.num_chunks)]
    table = pa.concat_tables(tables).combine_chunks()
    np.testing.assert_array_equal(ids_to_array(table["example_id"]), job.ids)
    return table["gradient"].combine_chunks().flatten().to_numpy().reshape(len(job.ids), -1)


@pytest.mark.thorough
def test_two_workers_give_the_same_bits(made: tuple[GradientsJob, dict[str, Any]], tmp_path: Path) -> None:
    job, alone = made
    # Stored weights alone: those of the start are drawn from torch's generator, which threads would share.
    both = dataclasses.replace(job, snapshots=job.snapshots[1:], out=Storage.open(tmp_path / "two").recording())
    summaries, workers = run_workers(2, lambda worker: run_pass(both, worker))
    assert summaries[0]["digests"] == summaries[1]["digests"] == alone["digests"][job.num_chunks :]
    assert all(any(event["event"] == "scored" for event in worker.events) for worker in workers)
    assert len(alone["written"]) == 2 * job.num_chunks == 10
    assert not np.array_equal(gradients_of(job, "start"), gradients_of(job, "last"))


@pytest.mark.thorough
def test_order_and_parts_of_the_corpus_change_nothing(
    made: tuple[GradientsJob, dict[str, Any]], tmp_path: Path
) -> None:
    job, alone = made
    order = np.concatenate([np.random.default_rng(0).permutation(np.arange(2, NUM)), [0, 1]])
    tokens = Storage.open(tmp_path / "tokens")
    parts = write_tokens(tokens, corpus().take(order), 150)
    assert len(parts) != len(job.parts)
    _, other = computed(job, tmp_path / "out", tokens=tokens, parts=parts)
    assert other["digests"] == alone["digests"]


@pytest.mark.thorough
def test_chunks_that_are_there_stay(made: tuple[GradientsJob, dict[str, Any]], tmp_path: Path) -> None:
    job, alone = made
    again, worker = dataclasses.replace(job, out=Storage.open(job.out.local_path()).recording()), ScoringWorker()
    name = f"last/{part_name(3)}"
    again.out.delete(name)
    assert run_pass(again, worker)["digests"] == alone["digests"]
    assert [event["examples"] for event in worker.events if event["event"] == "scored"] == [64]


@pytest.mark.thorough
def test_several_sequences_are_one_example(made: tuple[GradientsJob, dict[str, Any]], tmp_path: Path) -> None:
    """The mean over the tokens of both."""
    job, _ = made
    examples = corpus()
    alone = examples.take(np.arange(2))
    alone.ids[1] += 1
    tokens = Storage.open(tmp_path / "tokens")
    ids = alone.ids[np.lexsort((alone.ids[:, 1], alone.ids[:, 0]))]
    apart, _ = computed(job, tmp_path / "out", tokens=tokens, parts=write_tokens(tokens, alone, 9), ids=ids)
    counts = np.add.reduceat(alone.mask.astype(int), alone.offsets[:-1])
    position = int(np.flatnonzero((job.ids == examples.ids[0]).all(axis=1))[0])
    expected = counts @ gradients_of(apart, "last").astype(np.float64) / counts.sum()
    np.testing.assert_allclose(gradients_of(job, "last")[position], expected, rtol=1e-3, atol=1e-6)


def test_gradients_that_are_no_numbers_are_named_by_snapshot_and_example(
    job: GradientsJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(self: HeadGradients, examples: Examples) -> np.ndarray:
        found = compute(self, examples)
        found[examples.ids[:, 0] == job.ids[70, 0]] = np.inf
        return found

    compute = HeadGradients.__call__
    monkeypatch.setattr(HeadGradients, "__call__", overflowing)
    [name] = array_to_hex(job.ids[70:71])
    with pytest.raises(NonFiniteScore, match=rf"start \(step 0\): 1 gradients are not finite \(examples {name}\)"):
        computed(job, tmp_path / "out")


def test_tokens_of_another_corpus_are_refused(job: GradientsJob, tmp_path: Path) -> None:
    with pytest.raises(InternalError, match=r"holds only 299 of 300 sampled examples"):
        computed(job, tmp_path / "out", ids=np.concatenate([job.ids, np.full((1, 2), 2**64 - 1, np.uint64)]))


# --- findings -------------------------------------------------------------------------------------------------------


def stored(made: GradientsJob, root: Path, order: np.ndarray, clusters: np.ndarray) -> CheckSources:
    """Clusters and trajectories with the rows in this order."""
    ids = array_to_ids(made.ids[order])
    assignment, joined = Storage.open(root / "clusters"), Storage.open(root / "trajectories")
    table = pa.table({"example_id": ids, "cluster": pa.array(clusters[order].astype(np.int32))})
    assignment.write_table("assignment.parquet", table)
    sources = pa.array([f"source-{cluster % 2}" for cluster in clusters[order]])
    rows = [(0, 100), (2, len(order) - 100)]
    for (part, num), start in zip(rows, (0, 100), strict=True):
        joined.write_table(part_name(part), pa.table({"source": sources.slice(start, num)}))
    snapshots = [(one.name, one.step) for one in made.snapshots]
    return CheckSources(made.out, snapshots, made.num_chunks, assignment, joined, rows, len(order), 0)


def subset(root: Path, made: GradientsJob, rows: np.ndarray, clusters: np.ndarray, **columns: Any) -> Storage:
    storage = Storage.open(root)
    table = {"example_id": array_to_ids(made.ids[rows]), "s2l_cluster": pa.array(clusters[rows].astype(np.int32))}
    storage.write_table("ids.parquet", pa.table({**table, **columns}))
    return storage


@pytest.mark.thorough
def test_findings_do_not_depend_on_the_order_of_the_rows(
    made: tuple[GradientsJob, dict[str, Any]], tmp_path: Path
) -> None:
    job, _ = made
    num = len(job.ids)
    gradients = gradients_of(job, "last")
    clusters = np.argsort(np.argsort(gradients[:, 0])) * CLUSTERS // num  # so that they do say something
    rows = np.concatenate([np.flatnonzero(clusters == k)[:8] for k in range(CLUSTERS)])
    subsets = {
        "s2l-40": SubsetToCheck(subset(tmp_path / "s2l", job, rows, clusters), True, False),
        "random-40": SubsetToCheck(subset(tmp_path / "random", job, rows, clusters), False, True),
        "hard-40": SubsetToCheck(subset(tmp_path / "hard", job, np.arange(40), clusters), False, False),
        "weighted-40": SubsetToCheck(
            subset(tmp_path / "weighted", job, rows, clusters, s2l_weight=pa.array(np.ones(40, np.float32))), False,
            False,
        ),
    }  # fmt: skip
    found = check_gradients(stored(job, tmp_path / "one", np.arange(num), clusters), subsets, 0)
    shuffled = np.random.default_rng(0).permutation(num)
    assert check_gradients(stored(job, tmp_path / "other", shuffled, clusters), subsets, 0) == found

    assert (found["num_examples"], found["num_sampled"], found["num_clusters"]) == (num, num, CLUSTERS)
    last = found["snapshots"][1]
    assert set(last["similarity"]) == {"clusters", "sources", "embeddings"}
    assert last["similarity"]["clusters"]["num_labels"] == CLUSTERS
    assert last["similarity"]["sources"]["num_labels"] == 2
    errors = last["errors"]
    assert [errors[name]["closed_form"] for name in subsets] == [True, True, False, False]
    assert errors["random-40"]["rms"] == errors["s2l-40"]["random_rms"]
    mean = gradients.astype(np.float64).mean(axis=0)
    truth = np.linalg.norm(gradients[:40].astype(np.float64).mean(axis=0) - mean) / np.linalg.norm(mean)
    assert errors["hard-40"]["rms"]["value"] == pytest.approx(truth, rel=1e-5), "the whole corpus is in the sample"
    assert errors["weighted-40"]["rms"] is None
    assert errors["weighted-40"]["weighted_rms"]["value"] > 0
    assert found["verdict"][0].startswith("Gradients of one cluster are ")
    assert any(sentence.startswith("s2l-40 estimates the full gradient ") for sentence in found["verdict"])
    assert not any("random-40" in sentence for sentence in found["verdict"]), "it is the yardstick"


def test_gradients_of_other_examples_are_refused(made: tuple[GradientsJob, dict[str, Any]], tmp_path: Path) -> None:
    job, _ = made
    clusters = np.arange(len(job.ids)) % CLUSTERS
    sources = stored(job, tmp_path, np.arange(len(job.ids)), clusters)
    fewer = dataclasses.replace(sources, num_examples=150)
    assert len(read_sample(sources.clusters, 150, 0)[0]) < len(job.ids)
    with pytest.raises(InternalError, match="holds other examples"):
        check_gradients(fewer, {}, 0)
