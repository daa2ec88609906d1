"""Columns of the user's rows: found when read, the same whatever was read by whom; and written as they were."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.config import CorpusConfig
from s2l_ray.data.columns import OWN_COLUMNS, Columns, join, type_of
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_ids
from s2l_ray.data.read_task import to_record
from s2l_ray.data.row_json import row_to_json
from s2l_ray.data.units import MAX_COLUMNS, RawRow, SourceError, UnusableRow
from s2l_ray.stages.subset.rows import write_rows
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.processes import peak_resident_bytes

VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.integers(-9, 9), st.floats(allow_nan=False,
        allow_infinity=False), st.text("aé\0{", max_size=4), st.just(2**53 + 1),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abB"), inner, max_size=3)),
    max_leaves=8,
)  # fmt: skip
ROWS = st.lists(st.dictionaries(st.sampled_from(["a", "A", "", "m", "messages"]), VALUES, max_size=4), max_size=6)


def columns_of(rows: list[dict[str, Any]]) -> Columns:
    columns = Columns()
    for row in rows:
        columns.add(row)
    return columns


@pytest.mark.thorough
@settings(max_examples=300, deadline=None)
@given(VALUES, VALUES, VALUES)
def test_joining_types_depends_on_no_order(a, b, c):
    x, y, z = map(type_of, (a, b, c))
    assert join(x, x) == x
    assert join(x, y) == join(y, x)
    assert join(join(x, y), z) == join(x, join(y, z))


@pytest.mark.thorough
@settings(max_examples=200, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_columns_are_the_same_however_the_rows_are_divided(rows, chance):
    whole = columns_of(rows)
    shuffled = chance.sample(rows, len(rows))
    cut = chance.randint(0, len(rows))
    merged = columns_of(shuffled[cut:])
    merged.merge(Columns.from_plain(json.loads(json.dumps(columns_of(shuffled[:cut]).to_plain()))))
    assert merged == whole
    assert merged.names() == whole.names()
    assert columns_of(rows + rows) == whole


def write_and_read(tmp_path: Any, rows: list[dict[str, Any]], columns: Columns | None) -> tuple[list[str], pa.Table]:
    storage = Storage.open(tmp_path)
    ids = np.array([[0, i] for i in range(len(rows))], dtype=np.uint64)
    texts = [row_to_json(row) for row in rows]
    storage.write_table(part_name(0), pa.table({"example_id": array_to_ids(ids), "row": texts}))
    chosen = pa.table({"example_id": array_to_ids(ids), "part": [0] * len(rows), "s2l_id": ["x"] * len(rows)})
    write_rows("subset", chosen, storage, storage, columns)
    return storage.read_bytes("subset.jsonl").decode().splitlines(), pq.read_table(tmp_path / "subset.parquet")


def check_written(tmp_path: Any, rows: list[dict[str, Any]]) -> pa.Table:
    """Both files hold the rows: JSONL to the letter, Parquet by value, or as JSON text."""
    columns = columns_of(rows)
    lines, table = write_and_read(tmp_path, rows, columns)
    types = columns.arrow_types()
    for line, cells, row in zip(lines, table.to_pylist(), rows, strict=True):
        assert json.dumps(json.loads(line), ensure_ascii=False).startswith(json.dumps(row, ensure_ascii=False)[:-1])
        for name, kind in types.items():
            cell = cells[name]
            if kind is None and cell is not None:
                cell = json.loads(cell)
            if name != "messages":
                assert cell == row.get(name)
    return table


@pytest.mark.thorough
@settings(max_examples=150, deadline=None)
@given(rows=ROWS.filter(len))
def test_every_row_that_json_holds_can_be_written(tmp_path_factory, rows):
    check_written(tmp_path_factory.mktemp("rows"), rows)


DEEP: Any = {}
for _ in range(190):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("values", "is_text"),
    [
        ([{}, {}], True),
        ([{}, {"a": 1}], True),
        ([{"a": {}}], True),
        ([[{}]], True),
        ([{"a": 1}, {"b": 2}], True),
        ([{"a": 1}, {"a": 1, "b": None}], True),
        ([{"a": 1}, {"a": 2}], False),
        ([[], []], False),
        ([[], [1]], False),
        ([[1], ["x"]], True),
        ([1, "x"], True),
        ([1, 1.5], False),
        ([2**53 + 1, 1.5], True),
        ([2**63], True),
        ([2**63 - 1, -(2**63)], False),
        ([10**4000], True),
        ([True, 1], True),
        ([None, None], False),
        ([DEEP], True),
        (["\0", "é😀"], False),
        ([{"a": [{"b": None}]}, {"a": [{"b": "x"}]}, {"a": None}], False),
        ([{str(i): i for i in range(300)}], True),
    ],
)
def test_which_columns_become_json_text(tmp_path, values, is_text):
    rows = [{"prompt": f"p{i}", "meta": value} for i, value in enumerate(values)]
    check_written(tmp_path, rows)
    columns = columns_of(rows)
    assert (columns.arrow_types()["meta"] is None) == is_text
    assert ("'meta'" in "".join(columns.warnings())) == is_text


def test_names_that_differ_in_case_are_empty_or_odd(tmp_path):
    table = check_written(tmp_path, [{"": 1, "a": 2, "A": 3, "a.b": {"": 4}, "x\0y": 5, " ": 6, "é" * 300: 7}])
    assert table.column_names == ["", "a", "A", "a.b", "x\0y", " ", "é" * 300, "s2l_id"]


def test_turns_may_lack_keys_and_it_is_said(tmp_path):
    turns = [[{"role": "user", "content": "q", "name": "n"}, {"role": "assistant", "content": "a"}]]
    rows = [{"messages": t} for t in turns]
    table = check_written(tmp_path, rows)
    assert table["messages"][0].as_py()[1] == {"role": "assistant", "content": "a", "name": None}
    assert "null in ['messages']" in columns_of(rows).warnings()[0]


def test_the_subset_of_an_earlier_versions_corpus_finds_its_columns_itself(tmp_path):
    rows = [{"a": {}, "b": 1}, {"a": {}, "b": 2}]
    _, table = write_and_read(tmp_path, rows, None)
    assert table["a"].to_pylist() == ["{}", "{}"]


def test_one_row_of_985_levels_is_quarantined_and_takes_no_memory():
    before = peak_resident_bytes()
    for depth, fits in ((199, True), (201, False), (985, False), (100_000, False)):
        value: Any = {}
        for _ in range(depth - 2):
            value = {"a": value}
        row = {"prompt": "p", "completion": "c", "x": value}
        if fits:
            assert columns_of([json.loads(row_to_json(row))]).arrow_types()["x"] is None
            continue
        with pytest.raises(UnusableRow, match="column 'x' is nested deeper than 200 levels"):
            row_to_json(row)
        while value:  # freeing it all at once recurses
            value = value.pop("a", None)
    assert peak_resident_bytes() - before < 200 * 2**20


def test_columns_that_the_subset_adds_are_refused_with_the_cure():
    config = CorpusConfig(paths=["a"])
    for name in OWN_COLUMNS:
        row = {"prompt": "p", "completion": "c", name: 1}
        with pytest.raises(UnusableRow, match=rf"'{name}'.*corpus\.drop_columns"):
            to_record(RawRow("a", 0, row), row, config, "prompt_completion")


def test_data_in_the_names_of_columns_is_refused():
    columns = Columns()
    for i in range(MAX_COLUMNS):
        columns.add({f"k{i}": i})
    with pytest.raises(SourceError, match=r"more than 2,000 different columns.*corpus\.drop_columns"):
        columns.add({"one more": 1})


def test_reasons_name_the_column():
    for value, why in ((float("nan"), "NaN"), ([{"a": float("inf")}], "NaN"), ("\ud800", "surrogate"), (b"x", "bytes"),
                       ({"\udc00": 1}, "surrogate")):  # fmt: skip
        with pytest.raises(UnusableRow, match=f"column 'x' .*{why}"):
            row_to_json({"ok": random.random(), "x": value})
