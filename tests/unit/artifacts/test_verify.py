"""Digests from the write to the read, without a cluster: records of what is written, checks of what is read, verify."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from s2l_ray.artifacts import outputs
from s2l_ray.artifacts.file_record import FileRecord
from s2l_ray.artifacts.generated_corpus import quickstart_units
from s2l_ray.artifacts.manifest import EarlierLayout, ManifestError, StageManifest, read_manifest, write_manifest
from s2l_ray.artifacts.outputs import OutputFile, list_outputs, verify_outputs
from s2l_ray.artifacts.run import RunError
from s2l_ray.artifacts.stage import Stage
from s2l_ray.artifacts.verify import verify_run
from s2l_ray.cli import main
from s2l_ray.data.sources import read_unit
from s2l_ray.storage import checked_reads
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import DamagedFile, MissingFile
from s2l_ray.testing.quiet import Quiet

FOLDER = "tokens/0123456789ab"


def flip(path: Path, at: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.fixture(params=["local", "s3"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage.open(tmp_path / "run" if request.param == "local" else request.getfixturevalue("s3_uri"))


def written_in(folder: Storage) -> None:
    """Every way of writing a file."""
    folder.sub("parts").write_table("part-000000.parquet", pa.table({"x": np.arange(5000)}), compression="zstd")
    folder.write_bytes("bytes", b"123" * 999)
    folder.write_json("some.json", {"é": [1.5, None]})
    with folder.atomic_output("stream") as stream:
        stream.write(b"one")
        stream.write(memoryview(b"two"))
        stream.write(bytearray(b""))
    with folder.atomic_output("text") as stream, io.TextIOWrapper(stream, encoding="utf-8") as text:
        text.write("line\n" * 5000)
    folder.write_bytes("empty", b"")


def stage_in(run: Storage, folder: str = FOLDER, **fields: object) -> Stage:
    out = run.sub(folder).recording()
    written_in(out)
    manifest = StageManifest(stage="tokens", key="k", outputs=list_outputs(out), **fields)  # type: ignore[arg-type]
    return Stage("tokens", folder, run.sub(folder), write_manifest(out, manifest))


def test_digests_are_of_the_very_bytes_and_nothing_is_read_back(anywhere, monkeypatch):
    def refuse(self: Storage, rel: str) -> None:
        raise AssertionError(f"{rel} was read back")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "digest", refuse)
        stage = stage_in(anywhere)
    assert len(stage.manifest.outputs) == 6
    for output in stage.manifest.outputs:
        assert stage.storage.digest(output.name) == output.known
    assert verify_outputs(stage.storage, stage.manifest.outputs) == []


def test_a_worker_records_what_it_writes_and_the_driver_takes_it_over(tmp_path):
    out = Storage.open(tmp_path).sub("stage").recording()
    at_worker = pickle.loads(pickle.dumps(out.sub("parts")))
    at_worker.write_bytes("a", b"1")
    told = json.loads(json.dumps(at_worker.take_written()))
    assert [f["name"] for f in told] == ["parts/a"]
    assert at_worker.take_written() == [], "each file is told once"
    out.note_written(told)
    assert out.take_written() == told
    assert Storage.open(tmp_path).take_written() == []


def test_what_nobody_recorded_is_read_for_its_digest_and_what_changed_since_is_an_error(tmp_path):
    out = Storage.open(tmp_path).recording()
    out.write_bytes("a", b"12")
    (tmp_path / "b").write_bytes(b"of another program")
    assert [o.known for o in list_outputs(out)] == [out.digest("a"), out.digest("b")]
    out.write_bytes("a", b"12")
    (tmp_path / "a").write_bytes(b"1")
    with pytest.raises(DamagedFile, match="a is damaged: it has 1 bytes, but 2 were written"):
        list_outputs(out)


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_no_changed_file_of_a_stage_is_ever_read(anywhere, limit, monkeypatch, tmp_path):
    monkeypatch.setattr(checked_reads, "_IN_MEMORY_BYTES", limit)
    stage = stage_in(anywhere)
    there = pickle.loads(pickle.dumps(stage.storage))  # as a worker gets it
    assert there.sub("parts").read_table("part-000000.parquet").num_rows == 5000
    assert there.read_table("parts/part-000000.parquet", filters=[("x", "==", 3)]).num_rows == 1
    other = anywhere.sub(FOLDER)
    # A whole and valid file of the same size, which no page checksum can tell.
    table = pa.table({"x": np.arange(5000)[np.r_[0, 2, 1, 3:5000]]})
    other.write_table("parts/part-000000.parquet", table, compression="zstd")
    assert other.digest("parts/part-000000.parquet") != stage.manifest.outputs[-1].known
    for name in ("bytes", "some.json", "stream"):
        content = bytearray(other.read_bytes(name))
        content[1] ^= 1
        other.write_bytes(name, bytes(content))
        with pytest.raises(
            DamagedFile, match=rf"{FOLDER}/{name}\S* is damaged: its digest is \w+, .*Delete it and run"
        ):
            there.read_bytes(name)
        for read in (lambda name: there.copy_to(tmp_path / "copy", name), there.check):
            with pytest.raises(DamagedFile, match=rf"{FOLDER}/{name}\S* is damaged: its digest is \w+"):
                read(name)
    for filters in (None, [("x", "==", 3)]):
        with pytest.raises(DamagedFile, match=r"part-000000\.parquet\S* is damaged: .*Delete it and run `s2l run`"):
            there.read_table("parts/part-000000.parquet", ["x"], filters)
    other.delete("text")
    for read in (there.read_bytes, lambda name: there.copy_to(tmp_path / "copy", name), there.check):
        with pytest.raises(MissingFile, match=r"text\S* is gone"):
            read("text")


def test_a_stage_that_is_made_anew_while_it_is_read_is_an_error(tmp_path):
    stage = stage_in(Storage.open(tmp_path))
    there = pickle.loads(pickle.dumps(stage.storage))
    stage_in(Storage.open(tmp_path), extra={"other": 1})
    with pytest.raises(DamagedFile, match="rebuilt by another process"):
        there.read_bytes("bytes")


def test_every_changed_number_of_a_manifest_is_found(tmp_path):
    stage_in(Storage.open(tmp_path), extra={"loss": 0.5}, row_counts={"examples": 3}, seeds={"a": 1}, settings={"b": 2})
    path = tmp_path / FOLDER / "manifest.json"
    whole = json.loads(path.read_text())
    for field, value in {
        "extra": {"loss": 0.25}, "row_counts": {"examples": 4}, "seeds": {"a": 2}, "settings": {"b": 2.0}, "key": "l",
        "outputs": [], "digest": "0" * 32, "content_fingerprint": "x", "wall_seconds": 1.0,
    }.items():  # fmt: skip
        path.write_text(json.dumps(whole | {field: value}))
        with pytest.raises(ManifestError, match=r"was altered after it was written.*Delete it"):
            read_manifest(Storage.open(tmp_path / FOLDER))
        assert "was altered" in verify_run(Storage.open(tmp_path), Quiet()).lines()[0]
    path.write_text(json.dumps(dict(reversed(whole.items())), indent=7))
    assert read_manifest(Storage.open(tmp_path / FOLDER)) is not None, "the same values, laid out otherwise"


def test_a_manifest_of_any_values_is_known_again(tmp_path):
    extra = {"a": (1, 2), "é\ud800": {"b": 1e-300, "a": [None, True]}, "10": 1, "9": {10: 1, 9: 2}}
    written = stage_in(Storage.open(tmp_path), extra=extra).manifest
    assert read_manifest(Storage.open(tmp_path / FOLDER)) == written


def test_manifests_without_digests_are_refused_with_what_to_do(tmp_path, capsys):
    run = Storage.open(tmp_path)
    earlier = {"stage": "corpus", "key": "k", "schema_version": 1, "outputs": [{"name": "a", "size": 1}]}
    run.write_json("corpus/0123456789ab/manifest.json", earlier)
    with pytest.raises(EarlierLayout, match=r"earlier s2l_ray \(schema version 1, this one's is 2\).*Run `s2l run`"):
        read_manifest(run.sub("corpus/0123456789ab"))
    assert main(["verify", str(tmp_path)]) == 1, "nothing was verified"
    assert "not verified: corpus/0123456789ab/: " in capsys.readouterr().out


# --- s2l verify -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    run = Storage.open(tmp_path)
    stage_in(run)
    stage_in(run, "subset/s2l-0.1-01234567")
    quickstart_units(run, 100, 0.0, 0, print)
    run.write_bytes("config.yaml", b"name: x\n")
    run.write_bytes("proxy/ba9876543210/snapshots/snapshot-000/manifest.json", b"{}")
    return tmp_path


def test_a_whole_run_is_whole_and_what_was_not_verified_is_said(run_folder, capsys):
    assert main(["verify", str(run_folder)]) == 0
    said = capsys.readouterr().out
    assert "14 files, " in said
    assert "all of them are what was written" in said
    assert "not verified: config.yaml (index and logs have no digest, nor have settings stored by earlier" in said
    assert (
        "not verified: proxy/ba9876543210/ (of no complete stage: checkpoints, and what an interrupted command" in said
    )
    assert said.endswith("; nothing vouches for 2 more, named above as not verified\n")


@pytest.mark.thorough
def test_every_file_that_is_flipped_torn_replaced_or_gone_is_named_with_stage_and_cure(run_folder, capsys):
    files = [p for p in run_folder.rglob("*") if p.is_file() and p.name != "config.yaml" and "snapshot" not in str(p)]
    assert len(files) == 14 + 2 + 1  # two manifests, one record
    for path in files:
        whole = path.read_bytes()
        for broken in (whole[:-1] + bytes([whole[-1] ^ 1]) if whole else b"x", whole[: len(whole) // 2], None):
            if broken == whole:
                continue
            path.unlink() if broken is None else path.write_bytes(broken)
            is_proof = path.name == "manifest.json" or (path.suffix == ".json" and path.parent.name == "quickstart")
            code, said = main(["verify", str(run_folder)]), capsys.readouterr().out
            if broken is None and is_proof:  # then the files are of no complete stage
                assert "of no complete stage" in said
            else:
                assert code == 1, path
                named = [line for line in said.splitlines() if line.startswith("bad: ")]
                assert len(named) == 1, path
                assert path.name in named[0]
                assert "elete " in named[0]
            path.write_bytes(whole)
    assert main(["verify", str(run_folder)]) == 0


def test_what_lies_in_a_stage_and_is_not_of_it_is_said(run_folder, capsys):
    (run_folder / FOLDER / "parts/part-000009.parquet").write_bytes(b"")
    assert main(["verify", str(run_folder)]) == 0
    assert f"not verified: {FOLDER}/ (not in its manifest, read by no stage): 1 file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "config.unfinished.yaml",
            "config.unfinished.yaml (index and logs have no digest, nor have settings stored by earlier",
        ),
        ("run.json", "run.json (index and logs have no digest, nor have settings stored by earlier"),
        ("metrics.jsonl", "metrics.jsonl (index and logs have no digest, nor have settings stored by earlier"),
        ("locks/a", "locks/ (locks have no digest)"),
        ("tensorboard/proxy/events", "tensorboard/ (logs have no digest)"),
        ("sweep/logs/target-1.jsonl", "sweep/logs/ (logs have no digest)"),
        ("sweep/made/1.json", "sweep/made/ (notes on which trials share a target have no digest)"),
        ("sweep/report.json", "sweep/ (of no complete stage: "),
        ("target/full-89abcdef/ray_train/step-4/weights", "target/full-89abcdef/ (of no complete stage: checkpoints, "),
        ("huggingface/0123456789abcdef/part-0.parquet", "huggingface/0123456789abcdef/ (of no complete stage: "),
    ],
)
def test_whatever_has_no_digest_is_said_with_the_reason(run_folder, name, said, capsys):
    Storage.open(run_folder).write_bytes(name, b"x")
    assert main(["verify", str(run_folder)]) == 0
    out = capsys.readouterr().out
    assert f"not verified: {said}" in out
    assert "nothing vouches for 3 more" in out


@pytest.mark.thorough
def test_records_and_results_of_a_sweep_have_digests(run_folder, capsys):
    run = Storage.open(run_folder)
    for name in ("trials/target-1", "stopped/target-2"):
        FileRecord({"trial": {"seed": 0}}).write(run, f"sweep/{name}.json")
    out = run.sub("sweep").recording()
    out.write_bytes("results.csv", b"a,b\n")
    FileRecord({"sweep": {}}, list_outputs(out, only=("results.csv",))).write(out, "files.json")
    assert main(["verify", str(run_folder)]) == 0
    said = capsys.readouterr().out
    assert "15 files" in said
    assert "not verified: sweep/" not in said
    for name in ("trials/target-1.json", "stopped/target-2.json", "files.json", "results.csv"):
        path = run_folder / "sweep" / name
        whole = path.read_bytes()
        for broken in (whole.replace(b"0", b"1").replace(b"a", b"b"), whole[:3], b"[" * 100_000, b"\xff", b"null"):
            path.write_bytes(broken)
            assert main(["verify", str(run_folder)]) == 1, (name, broken[:20])
            [bad] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bad: ")]
            assert name in bad
            assert "run the same `s2l sweep` again" in bad
        path.write_bytes(whole)


def test_a_folder_without_stages_is_refused(tmp_path):
    with pytest.raises(RunError, match="no complete stage"):
        verify_run(Storage.open(tmp_path), Quiet())


def test_the_check_at_the_start_takes_the_smallest_files_and_is_bounded(tmp_path, monkeypatch):
    stage = stage_in(Storage.open(tmp_path))
    by_size = sorted(stage.manifest.outputs, key=lambda o: o.size)
    for path in (tmp_path / FOLDER).rglob("*"):
        if path.is_file() and path.name != "manifest.json" and path.stat().st_size:
            flip(path)
    assert len(verify_outputs(stage.storage, by_size)) == 5  # one is empty
    monkeypatch.setattr(outputs, "_FULL_CHECK_BYTES", sum(o.size for o in by_size[:3]))
    assert [p.name for p in verify_outputs(stage.storage, by_size)] == [o.name for o in by_size[1:3]]
    monkeypatch.setattr(outputs, "_FULL_CHECK_FILES", 2)
    assert [p.name for p in verify_outputs(stage.storage, by_size)] == [by_size[1].name]


# --- the quickstart's files -----------------------------------------------------------------------------------------


def rows_of(unit) -> list:
    return [raw.row for raw in read_unit(unit)]


@pytest.mark.thorough
def test_every_setting_of_the_quickstart_has_files_of_its_own(tmp_path):
    """Seeds 0, 1, 0 and rows 600, 700, 600 shared one file: the second's rows stood under the first's fingerprint."""
    said: list[str] = []
    run = Storage.open(tmp_path)
    settings = [(600, 0.0, 0), (600, 0.0, 1), (700, 0.0, 0), (600, 0.3, 0)]
    alone = [rows_of(quickstart_units(Storage.open(tmp_path / str(i)), *s, print)[0]) for i, s in enumerate(settings)]
    for _ in range(2):
        for setting, expected in zip(settings, alone, strict=True):
            train, test = quickstart_units(run, *setting, said.append)
            assert rows_of(train) == expected
            assert len(rows_of(test)) > 0
    assert len({fingerprint(rows) for rows in alone}) == 4
    assert not said


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("how", ["flipped", "shorter", "gone"])
def test_damaged_or_missing_files_of_the_quickstart_are_made_again_and_that_is_said(tmp_path, which, how):
    said: list[str] = []
    run = Storage.open(tmp_path)
    before = quickstart_units(run, 100, 0.0, 0, print)
    victim = sorted((tmp_path / "quickstart").iterdir())[which]
    whole = victim.read_bytes()
    if how == "gone":
        victim.unlink()
    else:
        victim.write_bytes(whole[:-9] if how == "shorter" else whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    assert quickstart_units(run, 100, 0.0, 0, said.append) == before
    assert victim.read_bytes() == whole
    assert len(said) == (not (how == "gone" and victim.suffix == ".json"))


def test_a_quickstart_file_that_changes_after_the_plan_is_never_read(tmp_path):
    train, _ = quickstart_units(Storage.open(tmp_path), 100, 0.0, 0, print)
    flip(Path(train.uri))
    with pytest.raises(ValueError, match=r"train-\w+\.jsonl is damaged: its digest is .*Delete it"):
        list(read_unit(train))


def test_outputs_say_what_they_are_known_by():
    assert OutputFile(name="a", size=1, digest="d").known.size == 1
