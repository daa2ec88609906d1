"""Score parts are known by their digests: what lies there from an earlier attempt is compared before it counts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from s2l_ray.artifacts.outputs import list_outputs
from s2l_ray.artifacts.points import Point
from s2l_ray.artifacts.snapshots import Snapshot, read_snapshot
from s2l_ray.config.schema import ProxyConfig, TrajectoriesConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_ids
from s2l_ray.data.token_parts import TOKEN_SCHEMA
from s2l_ray.data.training_order import make_plan
from s2l_ray.lm.load import train_tokenizer
from s2l_ray.stages.proxy.job import ProxyJob
from s2l_ray.stages.proxy.loop import run_worker
from s2l_ray.storage.digests import FileDigest
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.local_worker import LocalWorkerContext
from s2l_ray.testing.tiny import random_examples

PROXY: dict[str, Any] = {
    "from_config": {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    "train_tokenizer": {"vocab_size": 280}, "max_length": 64, "epochs": 1, "global_batch_size": 32,
    "tokens_per_microbatch": 1024, "render": "plain",
}  # fmt: skip
NUM_PARTS, ROWS = 3, 64


class ProxyHost(LocalWorkerContext):
    def emit(self, **event: Any) -> None:
        self.events.append(event)


def write_tokens(folder: Storage) -> None:
    for part in range(NUM_PARTS):
        examples = random_examples(ROWS, seed=part, vocab=200, max_length=40)
        cuts = list(zip(examples.offsets[:-1], examples.offsets[1:], strict=True))
        columns = {
            "example_id": array_to_ids(examples.ids),
            "source": pa.array([""] * ROWS),
            "input_ids": pa.array([examples.tokens[a:b].tolist() for a, b in cuts], pa.list_(pa.int32())),
            "response_mask": pa.array([examples.mask[a:b].tolist() for a, b in cuts], pa.list_(pa.bool_())),
        }
        folder.write_table(part_name(part), pa.table(columns).cast(TOKEN_SCHEMA))


@pytest.fixture
def job(tmp_path: Path) -> ProxyJob:
    tokens = Storage.open(tmp_path / "tokens")
    write_tokens(tokens)
    proxy = ProxyConfig.model_validate(PROXY)
    plan = make_plan([(part, ROWS) for part in range(NUM_PARTS)], proxy.global_batch_size, proxy.epochs, None, 0)
    trajectories = TrajectoriesConfig.model_validate({"num_snapshots": 2, "tokens_per_batch": 1024})
    tokenizer = train_tokenizer(iter(["the quick brown fox jumps over the lazy dog"] * 9), 280)
    out = Storage.open(tmp_path / "out").recording()
    return ProxyJob(proxy, trajectories, plan, (Point(0), Point(plan.total_steps)), 0, tokenizer, tokens, out)


def complete(out: Storage, snapshot: int) -> Snapshot:
    found = read_snapshot(out, snapshot)
    assert found is not None
    return found


def train(job: ProxyJob, tmp_path: Path) -> dict[str, Any]:
    """From the start, whatever lies in the stage's folder."""
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    return run_worker(job, ProxyHost(tmp_path / "checkpoints"))


@pytest.mark.thorough
def test_the_driver_reads_no_score_part_and_no_weights_for_their_digests(job, tmp_path, monkeypatch):
    summary = train(job, tmp_path)
    driver = Storage.open(tmp_path / "out").recording()
    for files in (summary["written"], complete(driver, 0).files, complete(driver, 1).files):
        driver.note_written(files)
    read: list[str] = []
    digest = Storage.digest

    def noted(self: Storage, rel: str) -> FileDigest:
        read.append(rel)
        return digest(self, rel)

    monkeypatch.setattr(Storage, "digest", noted)
    outputs = list_outputs(driver)
    assert not [name for name in read if name.endswith((".parquet", ".safetensors"))]
    assert len(outputs) > 2 * NUM_PARTS + 3
    assert all(digest(driver, output.name) == output.known for output in outputs)


@pytest.mark.thorough
def test_an_altered_part_of_a_complete_snapshot_is_scored_again(job, tmp_path):
    train(job, tmp_path)
    victim = sorted((tmp_path / "out/snapshots/snapshot-000").rglob("*.parquet"))[1]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    untouched = sorted((tmp_path / "out/snapshots/snapshot-000").rglob("*.parquet"))[0].stat().st_mtime_ns
    before = read_snapshot(job.out, 0)
    train(job, tmp_path)
    assert victim.read_bytes() == whole
    assert read_snapshot(job.out, 0) == before
    assert sorted((tmp_path / "out/snapshots/snapshot-000").rglob("*.parquet"))[0].stat().st_mtime_ns == untouched


@pytest.mark.thorough
def test_parts_of_an_interrupted_snapshot_get_their_digests_when_it_is_completed(job, tmp_path):
    train(job, tmp_path)
    before = complete(job.out, 1)
    manifest = tmp_path / "out/snapshots/snapshot-001/manifest.json"
    manifest.unlink()
    train(job, tmp_path)
    assert complete(job.out, 1) == before
    assert len(before.files) == NUM_PARTS
