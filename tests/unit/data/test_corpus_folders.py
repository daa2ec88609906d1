"""What lies in a corpus's folder: datasets as Hugging Face saves them are read, what is not read is named."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from s2l_ray.artifacts.generated_corpus import recorded_unit
from s2l_ray.artifacts.huggingface import export_parquet, load
from s2l_ray.config import HuggingFaceSource
from s2l_ray.data.discovery import _find_remote
from s2l_ray.data.distinct import DistinctValues
from s2l_ray.data.sources import plan_files, read_unit
from s2l_ray.data.units import SourceError
from s2l_ray.stages.corpus.stage import _about_sources
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import write_jsonl
from tests.support.tiers import rest_thorough

ROWS = [{"prompt": f"p{i}", "completion": "c", "n": i} for i in range(7)]
FEATURES = datasets.Features({"prompt": datasets.Value("string"), "completion": datasets.Value("string"),
                              "mood": datasets.ClassLabel(names=["good", "bad"])})  # fmt: skip
MOODS = [{"prompt": f"p{i}", "completion": "c", "mood": mood} for i, mood in enumerate((0, 1, -1, None, 1))]
NAMED = ["good", "bad", None, None, "bad"]


def read(*paths: Any) -> tuple[list[Any], list[str]]:
    said: list[str] = []
    units = plan_files([str(p) for p in paths], 1 << 20, say=said.append)
    return [raw.row for unit in units for raw in read_unit(unit)], said


def refusal(*paths: Any) -> str:
    with pytest.raises(SourceError) as caught:
        read(*paths)
    return str(caught.value)


# --- saved datasets --------------------------------------------------------------------------------------------------


def test_a_saved_data_set_is_read_without_its_metadata_and_caches(tmp_path):
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "set", num_shards=3)
    (tmp_path / "set" / "cache-1a2b.arrow").write_bytes(b"of map")
    rows, said = read(tmp_path / "set")
    assert rows == ROWS
    [line] = said
    assert line.endswith(
        "contains files that are not read: cache-1a2b.arrow; convert those that are data, or name them in full"
    )
    (tmp_path / "set" / "data-00001-of-00003.arrow").unlink()
    assert "a saved dataset that lacks ['data-00001-of-00003.arrow'], so rows would be missing" in refusal(
        tmp_path / "set"
    )
    (tmp_path / "set" / "state.json").write_text("{")
    assert "state.json' cannot be read" in refusal(tmp_path / "set")


def test_splits_are_not_mixed(tmp_path):
    data = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "two")
    said = refusal(tmp_path / "two")
    assert f"which must not be mixed; name the folder of one of them, for example {tmp_path}/two" in said
    assert read(tmp_path / "two" / "train")[0] == ROWS
    datasets.DatasetDict({"only": data}).save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one") == (ROWS, [])


def test_arrow_files_of_both_forms(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    pyarrow.feather.write_feather(table, tmp_path / "a.feather", chunksize=2)
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    assert read(tmp_path / "a.feather")[0] == read(tmp_path / "b.arrow")[0] == ROWS
    (tmp_path / "c.arrow").write_bytes((tmp_path / "b.arrow").read_bytes()[:-300])
    assert "c.arrow cannot be read (" in refusal(tmp_path / "c.arrow")
    (tmp_path / "d.parquet").write_bytes((tmp_path / "a.feather").read_bytes())
    assert "it is an Arrow file; give it the ending .arrow" in refusal(tmp_path / "d.parquet")


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_name_that_two_columns_share_is_refused(tmp_path, kind):
    table = pa.table([pa.array(["p"]), pa.array(["c"]), pa.array(["d"])], names=["prompt", "completion", "completion"])
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        pyarrow.feather.write_feather(table, path)
    assert "two columns or fields named 'completion', of which one would be lost" in refusal(path)


def test_labels_of_classes_are_named(tmp_path):
    datasets.Dataset.from_list(MOODS, features=FEATURES).save_to_disk(tmp_path / "set")
    assert [row["mood"] for row in read(tmp_path / "set")[0]] == NAMED
    source = HuggingFaceSource(name=str(tmp_path / "set"))
    export = export_parquet(source, Storage.open(tmp_path / "run"), print)
    units = [recorded_unit(export.folder, file, "parquet") for file in export.files]
    rows = [raw.row for unit in units for raw in read_unit(unit)]
    assert rows == [row | {"mood": name} for row, name in zip(MOODS, NAMED, strict=True)]


def test_splits_that_are_not_there_or_empty_are_refused(tmp_path):
    data = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": data, "test": data.select([])}).save_to_disk(tmp_path / "set")
    name = str(tmp_path / "set")
    with pytest.raises(SourceError, match=r"no such split; its splits are \['train', 'test'\]\. Set corpus\.hugg"):
        load(HuggingFaceSource(name=name, split="validation"))
    for source in (HuggingFaceSource(name=name, split="test"), HuggingFaceSource(name=f"{name}/test")):
        with pytest.raises(SourceError, match=r"has no rows, so there is nothing to select from"):
            load(source)
    assert "saved dataset without rows" in refusal(f"{name}/test")
    assert len(load(HuggingFaceSource(name=name))) == 7
    write_jsonl(tmp_path / "files" / "train.jsonl", ROWS)
    with pytest.raises(SourceError, match=r"cannot be loaded.*\['train'\]"):
        load(HuggingFaceSource(name=str(tmp_path / "files"), split="validation"))


# --- what is not read -------------------------------------------------------------------------------------------------


def folder_of(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "in" / "a.jsonl", ROWS)
    for name in ("b.tsv", "c.jsonl.xz", "notes.txt", "sub/d.xlsx", "_SUCCESS", ".hidden"):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "in" / "dataset_info.json").write_text(json.dumps({"my_data": {"file_name": "a.jsonl"}}))
    return tmp_path / "in"


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path):
    folder = folder_of(tmp_path)
    rows, said = read(folder)
    assert rows == ROWS
    [line] = said
    assert "contains files that are not read: b.tsv, c.jsonl.xz, d.xlsx, dataset_info.json, notes.txt" in line
    rows, said = read(f"{folder}/*[ln]")
    assert rows == ROWS
    assert "not read: dataset_info.json" in said[0]
    (folder / "a.jsonl").unlink()
    assert "contains no file of a supported kind (.arrow, .csv," in refusal(folder)
    assert "only b.tsv, c.jsonl.xz, d.xlsx, dataset_info.json, notes.txt; convert them" in refusal(folder)


def test_remote_folders_likewise(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(folder_of(tmp_path) / "set")
    (tmp_path / "in" / "set" / "cache-1.arrow").write_bytes(b"x")
    remote = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    found = _find_remote(remote, "in", "s3://bucket/in", None)
    assert sorted(found.files) == ["in/a.jsonl", "in/set/data-00000-of-00001.arrow"]
    names = {path.rpartition("/")[2] for path in found.unread}
    assert names == {"b.tsv", "c.jsonl.xz", "d.xlsx", "dataset_info.json", "notes.txt", "cache-1.arrow"}
    datasets.DatasetDict({"a": datasets.Dataset.from_list(ROWS), "b": datasets.Dataset.from_list(ROWS)}).save_to_disk(
        tmp_path / "in" / "two"
    )
    with pytest.raises(SourceError, match="with the splits"):
        _find_remote(remote, "in", "s3://bucket/in", None)


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", rest_thorough([1, 7, 511, 512, 5_000, 100_000], 5))
def test_different_values_are_counted_about_and_in_any_order(num):
    values = [f"source {i % num}" for i in range(max(num, 1000))]
    whole = DistinctValues()
    for value in values:
        whole.add(value)
    assert abs(whole.estimate() - num) <= (0 if num < 512 else 0.15 * num)
    joined = DistinctValues()
    shuffled = random.Random(0).sample(values, len(values))
    for start in range(0, len(values), 30_000):
        part = DistinctValues()
        for value in shuffled[start : start + 30_000]:
            part.add(value)
        joined.merge(sorted(part.smallest))
    assert joined == whole


@pytest.mark.parametrize(
    ("num_sources", "num_examples", "is_said"),
    [(900, 1000, True), (500, 1000, True), (499, 1000, False), (20, 20, False), (3, 100_000, False)],
)
def test_a_source_of_nearly_as_many_values_as_rows_is_warned_of(num_sources, num_examples, is_said):
    said = _about_sources("source", num_sources, num_examples)
    assert bool(said) == is_said
    if is_said:
        assert f"about {num_sources:,} values for {num_examples:,} examples" in said[0]
        assert "corpus.source_column=null" in said[0]
    assert _about_sources(None, num_sources, num_examples) == []
