"""A user's file that is edited, replaced or deleted between the plan and the last row that is read of it."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.artifacts.huggingface import export_parquet, loaded_commit
from s2l_ray.data.sources import plan_files, read_unit
from s2l_ray.data.unchanged import unit_content
from s2l_ray.data.units import ReadUnit, SourceError
from s2l_ray.storage.folder import Storage

ROWS = [{"instruction": f"say {i}", "output": str(i)} for i in range(9000)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def write(folder: Path, kind: str) -> Path:
    path = folder / f"data.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "csv":
        path.write_text("instruction,output\n" + "".join(f"{r['instruction']},{r['output']}\n" for r in ROWS))
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_bytes(gzip.compress(LINES) if kind.endswith("gz") else LINES)
    return path


def same_size(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:20] + b"9" + content[21:])


def longer(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b'{"instruction": "more", "output": "1"}\n')


def replaced(path: Path) -> None:
    """As editors and rsync do it."""
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    os.replace(other, path)


KINDS = ["jsonl", "jsonl.gz", "parquet", "csv", "json"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [same_size, longer, replaced, Path.unlink])
def test_a_file_changed_after_the_plan_is_not_read(tmp_path, kind, change):
    path = write(tmp_path, kind)
    units = plan_files([str(path)], 1 << 17)
    change(path)
    with pytest.raises(
        SourceError, match=rf"data\.{kind} (was changed while this run was reading it|has disappeared since)"
    ):
        next(read_unit(units[0]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [longer, replaced])
def test_a_file_changed_while_it_is_read_ends_in_an_error_and_not_in_rows_of_two_versions(tmp_path, kind, change):
    path = write(tmp_path, kind)
    rows = read_unit(plan_files([str(path)], 1 << 30)[0])
    next(rows)
    change(path)
    with pytest.raises(SourceError, match=rf"data\.{kind} (was changed|cannot be read)"):
        list(rows)


def test_slices_read_before_and_after_an_edit_are_not_mixed(tmp_path):
    path = write(tmp_path, "jsonl")
    units = plan_files([str(path)], 1 << 17)
    assert len(units) > 2
    list(read_unit(units[0]))
    same_size(path)
    with pytest.raises(SourceError, match="was changed"):
        list(read_unit(units[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_an_untouched_file_is_read_whole(tmp_path, kind):
    units = plan_files([str(write(tmp_path, kind))], 1 << 17)
    assert [raw.row for unit in units for raw in read_unit(unit)] == ROWS


def test_a_held_out_file_counts_by_its_content_alone(tmp_path):
    path = write(tmp_path, "jsonl")
    (before,) = map(unit_content, plan_files([str(path)], 1 << 30))
    (tmp_path / "b").mkdir()
    os.utime(path, ns=(1, 1))
    moved = path.rename(tmp_path / "b" / "other.jsonl")
    assert [unit_content(u) for u in plan_files([str(moved)], 1 << 30)] == [before]
    same_size(moved)
    os.utime(moved, ns=(1, 1))
    assert [unit_content(u) for u in plan_files([str(moved)], 1 << 30)] != [before]
    units = plan_files([str(moved)], 1 << 30)
    moved.unlink()
    with pytest.raises(SourceError, match=r"other\.jsonl cannot be read"):
        unit_content(units[0])


# --- datasets ------------------------------------------------------------------------------------------------------


def exported(tmp_path: Path, said: list[str]):
    from s2l_ray.config.corpus import HuggingFaceSource

    return export_parquet(HuggingFaceSource(name=str(tmp_path / "set")), Storage.open(tmp_path / "run"), said.append)


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    import datasets

    datasets.Dataset.from_list(ROWS[:500]).save_to_disk(tmp_path / "set")
    return tmp_path


@pytest.mark.parametrize("damage", ["file", "record", "gone"])
def test_an_export_that_was_damaged_is_made_again(data_set, damage):
    said: list[str] = []
    before = exported(data_set, said)
    (parquet,) = data_set.rglob("run/**/*.parquet")
    whole = parquet.read_bytes()
    victim = parquet if damage != "record" else parquet.parent / "export.json"
    if damage == "gone":
        victim.unlink()
    else:
        content = victim.read_bytes()
        victim.write_bytes(content[:60] + bytes([content[60] ^ 1]) + content[61:])
    assert exported(data_set, said) == before
    assert parquet.read_bytes() == whole
    assert len(said) == 1


def test_a_local_data_set_that_is_edited_under_its_fingerprint_is_exported_again(data_set):
    import datasets

    before = exported(data_set, [])
    (data_set / "other").mkdir()
    datasets.Dataset.from_list(ROWS[500:1000]).save_to_disk(data_set / "other")
    for path in (data_set / "other").glob("*.arrow"):
        os.replace(path, data_set / "set" / path.name)  # state.json, with the library's fingerprint, stays
    after = exported(data_set, [])
    assert after.folder != before.folder
    assert after.files[0].digest != before.files[0].digest


def test_a_data_set_that_was_only_touched_or_moved_has_the_same_content(data_set):
    before = exported(data_set, [])
    for path in (data_set / "set").iterdir():
        os.utime(path, ns=(1, 1))
    assert [f.digest for f in exported(data_set, []).files] == [f.digest for f in before.files]


def test_the_commit_of_a_hub_data_set_is_that_of_its_addresses():
    import datasets

    data = datasets.Dataset.from_list(ROWS[:2])
    assert loaded_commit(data) is None
    data.info.download_checksums = {f"hf://datasets/a/b@{'c' * 40}/train.parquet": {"num_bytes": 1}}
    assert loaded_commit(data) == "c" * 40


def test_a_unit_made_by_hand_is_read_as_it_is(tmp_path):
    path = write(tmp_path, "csv")
    assert sum(1 for _ in read_unit(ReadUnit(str(path), "csv"))) == len(ROWS)
