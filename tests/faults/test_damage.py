"""Files that cannot be read: an error that names the file and the cure, or made again and said so; never less data."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import s2l_ray
from s2l_ray.artifacts import outputs
from s2l_ray.artifacts.manifest import ManifestError
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.snapshots import Snapshot, lost_part, read_snapshot, snapshot_folder, write_snapshot
from s2l_ray.config.corpus import CorpusConfig
from s2l_ray.data.sources import plan_files
from s2l_ray.data.units import SourceError
from s2l_ray.execution.checkpoints import CheckpointDamaged, drop_unusable_checkpoints, translate_torn_checkpoint
from s2l_ray.stages.corpus.build import build_corpus
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import DamagedFile, MissingFile
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl


def rows(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"instruction": f"say {i}", "output": f"{i * 7919 % 10_007}"} for i in range(start, start + count)]


def flip(path: Path, seed: int) -> None:
    """One bit somewhere in the file, its size unchanged."""
    rng = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def test_no_altered_part_is_ever_read_as_data(tmp_path):
    """Without page checksums four of five such files are."""
    storage = Storage.open(tmp_path)
    rng = np.random.default_rng(0)
    table = pa.table({"loss_nats": rng.normal(size=500).astype(np.float32), "id": [rng.bytes(16) for _ in range(500)]})
    path, said = tmp_path / "part.parquet", []
    for seed in range(200):
        storage.write_table("part.parquet", table, compression="zstd")
        flip(path, seed)
        try:
            assert storage.read_table("part.parquet").equals(table), "read as data"
        except DamagedFile as error:
            said.append(str(error))
    assert len(said) > 150
    assert all(str(path) in s and "Delete it and run" in s for s in said)


@pytest.mark.parametrize("size", [0, 3, 1000])
def test_a_torn_part_is_named(tmp_path, size):
    storage = Storage.open(tmp_path)
    storage.write_table("part.parquet", pa.table({"x": np.arange(10_000)}))
    whole = (tmp_path / "part.parquet").read_bytes()
    (tmp_path / "part.parquet").write_bytes(whole[:size])
    with pytest.raises(DamagedFile, match=r"part\.parquet is damaged"):
        storage.read_table("part.parquet")
    storage.delete("part.parquet")
    with pytest.raises(MissingFile, match=r"part\.parquet is gone"):
        storage.read_table("part.parquet")


def compressed(codec: str) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, codec) as stream:
        stream.write("".join(json.dumps(r) + "\n" for r in rows(3000)).encode())
    return bytes(buffer.getvalue().to_pybytes())


def torn_parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows(3000)), buffer)
    return buffer.getvalue()


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.jsonl.gz", compressed("gzip")[:-20]),
        ("b.jsonl.zst", compressed("zstd")[:-20]),
        ("b.parquet", torn_parquet()[:-20]),
        ("b.csv", b"instruction,output\nsay,caf\xe9\n"),
    ],
)
def test_an_input_file_that_cannot_be_read_stops_the_corpus_and_is_named(tmp_path, name, content):
    write_jsonl(tmp_path / "in/a.jsonl", rows(200))
    write_jsonl(tmp_path / "in/c.jsonl", rows(200, 1000))
    (tmp_path / "in" / name).write_bytes(content)
    config = CorpusConfig(paths=[str(tmp_path / "in")])
    units = plan_files(config.paths, config.read_bytes_per_task)
    with pytest.raises(SourceError, match=f"{name} cannot be read .*Repair the file, or remove it"):
        build_corpus(units, config, Storage.open(tmp_path / "out"), None, parallelism=4)


def test_a_snapshot_that_lost_a_part_is_no_longer_complete(tmp_path):
    out = Storage.open(tmp_path)
    folder = snapshot_folder(out, 0).sub("abc")
    for part in (0, 3):
        folder.write_bytes(f"part-{part:06d}.parquet", b"")
    assert lost_part(out, 2, [0, 3]) == "", "not complete: nothing is lost"
    write_snapshot(out, Snapshot(0, 1, "abc", 2, 0.5))
    assert lost_part(out, 2, [0, 3]) == ""
    folder.delete("part-000003.parquet")
    assert lost_part(out, 2, [0, 3]) == f"{folder.uri}/part-000003.parquet"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"snapshot": 1}', b"\xff", b"[" * 20_000])
def test_a_damaged_manifest_of_a_snapshot_is_named_with_the_cure_and_makes_it_incomplete(tmp_path, content):
    out = Storage.open(tmp_path)
    snapshot_folder(out, 1).write_bytes("manifest.json", content)
    with pytest.raises(ManifestError, match=r"snapshot-001/manifest\.json is damaged .*run the same command again"):
        read_snapshot(out, 1)
    assert lost_part(out, 2, [0]) == f"{snapshot_folder(out, 1).uri}/manifest.json"
    assert read_snapshot(out, 1) is None


@pytest.mark.parametrize(
    "content", [b"", b'{"checkpoint_results": [{"chec', b'{"checkpoint_results": [{"checkpoint_dir_name": "step-2"}]}']
)
def test_a_list_of_checkpoints_that_is_torn_or_names_what_is_gone_is_given_up_and_said(tmp_path, content):
    said: list[str] = []
    out = Storage.open(tmp_path)
    out.write_bytes("ray_train/step-1/progress.json", b"{}")
    drop_unusable_checkpoints(out, said.append)
    assert not said
    out.write_bytes("ray_train/checkpoint_manager_snapshot.json", content)
    drop_unusable_checkpoints(out, said.append)
    assert "starts over" in said[0]
    assert not out.exists("ray_train")


def test_a_torn_checkpoint_is_named_with_what_to_delete(tmp_path):
    import torch

    torch.save({"model": torch.zeros(1000)}, tmp_path / "state.pt")
    (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:2000])
    with pytest.raises(CheckpointDamaged, match=r"Delete /run/ray_train and run the same command again"):  # noqa: SIM117
        with translate_torn_checkpoint("/run/ray_train/step-1"):
            torch.load(tmp_path / "state.pt", weights_only=True)
    with (
        pytest.raises(RuntimeError, match=r"^Connection closed by peer$"),
        translate_torn_checkpoint("/run/ray_train/step-1"),
    ):
        raise RuntimeError("Connection closed by peer")


def copy_of(run: Run, to: Path) -> dict:
    shutil.copytree(run.storage.local_path(), to)
    return tiny_run_config(to)


def fingerprints(run: Run) -> dict[str, str]:
    return {name: stage.manifest.content_fingerprint for name, stage in run.stages.items()}


@pytest.mark.thorough
def test_parts_that_are_gone_or_torn_after_their_stage_are_made_again_and_said(finished, tmp_path):
    """Of the corpus one is torn; of a snapshot one is gone and one is torn."""
    tree = copy_of(finished, tmp_path / "run")
    example_part = sorted((tmp_path / "run" / finished.stage("corpus").folder).glob("examples/*.parquet"))[2]
    example_part.write_bytes(example_part.read_bytes()[:100])
    gone, torn = sorted((tmp_path / "run" / finished.stage("proxy").folder).glob("snapshots/snapshot-001/*/*.parquet"))[
        :2
    ]
    gone.unlink()
    torn.write_bytes(torn.read_bytes()[:100])
    progress = Quiet()
    repaired = s2l_ray.run(tree, progress=progress)
    assert f"examples/{example_part.name} in" in progress.lines()
    assert f"snapshot-001/{gone.parent.name}/{gone.name} is missing" in progress.lines()
    assert progress.lines().count("Made again.") == 2
    assert {name for name, stage in repaired.stages.items() if not stage.reused} == {"corpus", "proxy"}
    assert fingerprints(repaired) == fingerprints(finished)
    whole = {o.name: o.size for o in finished.stage("proxy").manifest.outputs}
    assert {o.name: o.size for o in repaired.stage("proxy").manifest.outputs} == whole


def test_a_part_altered_without_a_change_of_size_is_found_at_the_start_and_made_again(finished, tmp_path):
    tree = copy_of(finished, tmp_path / "run")
    victim = alter(tmp_path / "run" / finished.stage("tokens").folder)
    progress = Quiet()
    repaired = s2l_ray.run(tree, progress=progress)
    assert f"[tokens] parts/{victim.name} in" in progress.lines()
    assert "has other bytes than were written" in progress.lines()
    assert {name for name, stage in repaired.stages.items() if not stage.reused} == {"tokens"}
    assert fingerprints(repaired) == fingerprints(finished)


def alter(folder: Path) -> Path:
    victim = sorted(folder.glob("parts/*.parquet"))[1]
    content = bytearray(victim.read_bytes())
    content[30:60] = bytes(30)
    victim.write_bytes(content)
    return victim


def test_a_part_too_large_for_the_check_at_the_start_stops_whoever_reads_it_until_it_is_deleted(
    finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(outputs, "_FULL_CHECK_BYTES", 0)
    tree = copy_of(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / finished.stage("trajectories").folder)
    victim = alter(tmp_path / "run" / finished.stage("tokens").folder)
    with pytest.raises(DamagedFile, match=f"{victim.name} is damaged: its digest is .*Delete it and run"):
        s2l_ray.run(tree, progress=Quiet())
    victim.unlink()
    repaired = s2l_ray.run(tree, progress=Quiet())
    assert {name for name, stage in repaired.stages.items() if not stage.reused} == {"tokens", "trajectories"}
    assert fingerprints(repaired) == fingerprints(finished)
