"""The chosen rows: shards, types, and what LLaMA-Factory is told."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_hex, array_to_ids
from s2l_ray.stages.subset import rows as subset_rows
from s2l_ray.stages.subset.programs import write_guides
from s2l_ray.stages.subset.rows import plan_files, write_rows
from s2l_ray.storage.folder import Storage


@pytest.fixture
def examples(tmp_path) -> Storage:
    """Three parts of ten rows."""
    storage = Storage.open(tmp_path / "examples")
    for part in range(3):
        ids = np.array([[part, i] for i in range(10)], dtype=np.uint64)
        row = [
            json.dumps({"instruction": f"é {part}-{i}", "output": "x", "n": i}, ensure_ascii=False) for i in range(10)
        ]
        storage.write_table(part_name(part), pa.table({"example_id": array_to_ids(ids), "row": row}))
    return storage


def chosen(pairs: list[tuple[int, int]]) -> pa.Table:
    ids = np.array(pairs, dtype=np.uint64)
    columns = {"example_id": array_to_ids(ids), "s2l_id": array_to_hex(ids), "part": [p for p, _ in pairs]}
    return pa.table(columns | {"s2l_rank": list(range(len(pairs)))})


def test_rows_come_back_in_order_with_their_own_columns(examples, tmp_path):
    out = Storage.open(tmp_path / "out")
    pairs = [(0, 7), (0, 2), (2, 9)]
    _, layout = write_rows("subset", chosen(pairs), examples, out)
    lines = [json.loads(line) for line in out.read_bytes("subset.jsonl").splitlines()]
    assert [r["instruction"] for r in lines] == ["é 0-7", "é 0-2", "é 2-9"]
    assert list(lines[0]) == ["instruction", "output", "n", "s2l_id", "s2l_rank"]
    assert out.read_table("subset.parquet").to_pylist() == lines
    write_guides(out, {"subset.jsonl": layout}, "instruction")
    columns = out.read_json("dataset_info.json")["s2l_subset"]["columns"]
    assert columns == {"prompt": "instruction", "response": "output"}, "no input column: it must not be named"


def test_a_missing_row_is_an_error(examples, tmp_path):
    with pytest.raises(KeyError):
        write_rows("subset", chosen([(0, 99)]), examples, Storage.open(tmp_path / "out"))


def test_large_subsets_become_shards_that_cover_all(monkeypatch):
    monkeypatch.setattr(subset_rows, "ROWS_PER_FILE", 4)
    pairs = [(p, i) for p in range(3) for i in range(3)]
    jobs = plan_files(chosen(pairs))
    assert [stem for stem, _ in jobs] == ["subset-00000-of-00002", "subset-00001-of-00002"]
    assert [r for _, t in jobs for r in t["s2l_rank"].to_pylist()] == list(range(9))
