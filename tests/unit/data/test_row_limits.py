"""Rows, lines, cells and unpacked files that are larger than memory likes: refused by name, never held."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from s2l_ray.config import CorpusConfig
from s2l_ray.data.quarantine import QuarantineLimitError
from s2l_ray.data.read_task import read_rows, sample_format
from s2l_ray.data.sources import plan_files, read_unit
from s2l_ray.data.units import RawRow, SourceError

LIMIT = 4096
SMALL = {"prompt": "p", "completion": "c"}
LARGE = {"prompt": "p", "completion": "x" * (LIMIT + 100)}


def read(path: Path, limit: int = LIMIT, bytes_per_task: int = 1 << 20) -> list[RawRow]:
    return [raw for unit in plan_files([str(path)], bytes_per_task) for raw in read_unit(unit, limit)]


def refusal(path: Path, limit: int = LIMIT) -> str:
    with pytest.raises(SourceError) as caught:
        read(path, limit)
    said = str(caught.value)
    assert str(path.name) in said
    assert "corpus.max_row_bytes" in said
    assert f"{limit:,}" in said
    return said


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(r).encode() + b"\n" for r in rows)


def csv_of(rows: list[dict[str, Any]]) -> bytes:
    return b"prompt,completion\n" + b"".join(f'{r["prompt"]},"{r["completion"]}"\n'.encode() for r in rows)


def parquet_of(rows: list[dict[str, Any]], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return sink.getvalue()


def files_of(rows: list[dict[str, Any]]) -> dict[str, bytes]:
    return {
        "a.jsonl": lines(rows),
        "a.jsonl.gz": gzip.compress(lines(rows)),
        "a.jsonl.bz2": bz2.compress(lines(rows)),
        "a.jsonl.zst": zstandard.compress(lines(rows)),
        "lines.json": lines(rows),
        "a.json": json.dumps(rows).encode(),
        "a.json.gz": gzip.compress(json.dumps(rows, indent=2).encode()),
        "a.csv": csv_of(rows),
        "a.csv.zst": zstandard.compress(csv_of(rows)),
        "a.parquet": parquet_of(rows),
        "plain.parquet": parquet_of(rows, use_dictionary=False, row_group_size=3),
    }


@pytest.mark.parametrize("name", files_of([SMALL]))
def test_a_row_over_the_limit_is_refused_with_file_row_size_limit_and_cure(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(files_of([SMALL] * 3 + [LARGE] + [SMALL] * 3)[name])
    said = refusal(path)
    assert any(f"{word} {n}" in said for word in ("row", "line", "element") for n in (3, 4, 5)) or "at byte" in said
    assert len(read(path, 2 * LIMIT)) == 7, "the cure works"


def test_a_row_just_within_the_limit_is_read(tmp_path):
    size = LIMIT - len(json.dumps({"completion": "", "prompt": "p"}))
    rows = [{"completion": "x" * (size - 1), "prompt": "p"}] * 2
    for name, content in files_of(rows).items():
        (tmp_path / name).write_bytes(content)
        assert [raw.row for raw in read(tmp_path / name, LIMIT + 20)] == [{k: r[k] for k in r} for r in rows], name


def test_slices_pass_over_a_line_that_another_one_refuses(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([SMALL, LARGE, SMALL]))
    units = plan_files([str(path)], 1024)
    outcomes: list[Any] = []
    for unit in units:
        try:
            outcomes.append(len(list(read_unit(unit, LIMIT))))
        except SourceError as error:
            outcomes.append(str(error))
    assert sum(isinstance(o, str) for o in outcomes) == 1
    assert outcomes[-1] == 1


def test_csv_rows_of_many_lines_or_fields_count_as_a_whole(tmp_path):
    path = tmp_path / "a.csv"
    for body in (b'1,"' + b"x\n" * LIMIT + b'"\n', b"1," * LIMIT + b"1\n", b'1,"' + b"x" * 2 * LIMIT):
        path.write_bytes(b"a,b\n1,2\n" + body)
        refusal(path)


def test_a_large_array_is_streamed(tmp_path):
    rows = [{"prompt": f"é{i}", "completion": "x" * (i % 50) * 100} for i in range(3000)]
    for indent in (None, 1):
        path = tmp_path / "a.json"
        path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False) + " \n", encoding="utf-8")
        assert [raw.row for raw in read(path, 1 << 16)] == rows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"a": 1},]', "element 1: bad JSON: there is a comma before the closing bracket"),
        ('[{"a": 1} {"a": 2}]', "it is followed by '{'"),
        ('[{"a": 1}', "the file ends within the array"),
        ('[{"a": 1}, ', "element 1"),
        ('[{"a": 1}]\n[{"a": 2}]', "the array is followed by '['"),
        ('[{"a": 1}, {"b" 2}]', "element 1: bad JSON: Expecting ':' delimiter"),
        ('[{"a": 1}, ' + "[" * 100_000 + "]" * 100_000 + "]", "nested too deeply"),
        ('[{"a": 1, "a": 2}]', "has the key 'a' twice"),
        ("[" + '{"a": 1},' * 3 + "nothing]", "element 3"),
        ("[nothing, " + '{"a": 1},' * 300_000 + "1]", "element 0: bad JSON: Expecting value"),
    ],
)
def test_broken_arrays_say_which_element(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SourceError) as caught:
        read(tmp_path / "a.json", 1 << 20)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "rows"),
    [("[]", []), (" [ ] ", []), ('[1, 22.5, null, true, "x", {}, [{}]]', [None, None, None, None, None, {}, None])],
)
def test_arrays_of_every_kind_of_value_and_none(tmp_path, text, rows):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert [raw.row for raw in read(path)] == rows


# --- memory: in a process of its own, which tells its peak ----------------------------------------------------------

_MEASURED = """
import sys
from s2l_ray.config import CorpusConfig
from s2l_ray.data.read_task import read_rows, sample_format
from s2l_ray.data.sources import plan_files
from s2l_ray.storage.processes import peak_resident_bytes
config = CorpusConfig(paths=[sys.argv[1]])
units = plan_files(config.paths, config.read_bytes_per_task)
before = peak_resident_bytes()
said, count = "", 0
try:
    format = sample_format(units, config)
    for unit in units:
        for record, raw, reason in read_rows(unit, config, format):
            count += 1
except ValueError as error:
    said = str(error)
print(count, (peak_resident_bytes() - before) >> 20, said)
"""


def measured(path: Path) -> tuple[int, int, str]:
    """Rows, MiB of memory beyond what imports take, and the refusal."""
    done = subprocess.run([sys.executable, "-c", _MEASURED, str(path)], capture_output=True, text=True, check=True)
    count, mib, said = done.stdout.rstrip("\n").split(" ", 2)
    return int(count), int(mib), said


MIB = 2**20
BOMBS = {
    "line.jsonl.zst": lambda: zstandard.compress(b'{"a": "' + b"x" * 300 * MIB),
    "line.jsonl.gz": lambda: gzip.compress(b'{"a": "' + b"x" * 300 * MIB, 1),
    "array.json.zst": lambda: zstandard.compress(b'[{"a": "' + b"x" * 300 * MIB),
    "field.csv.zst": lambda: zstandard.compress(b'a,b\n1,"' + b"x" * 300 * MIB),
    "header.csv.zst": lambda: zstandard.compress(b"a," * 100 * MIB),
    "cell.parquet": lambda: parquet_of([{"prompt": "p", "completion": "x" * 300 * MIB}], compression="zstd"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", BOMBS)
def test_what_unpacks_to_more_than_memory_is_refused_without_being_held(tmp_path, name):
    (tmp_path / name).write_bytes(BOMBS[name]())
    assert (tmp_path / name).stat().st_size < 2 * MIB
    _, mib, said = measured(tmp_path / name)
    assert "corpus.max_row_bytes" in said
    assert name in said
    assert mib < 200


def test_a_window_that_is_too_large_is_said_with_the_cure(tmp_path):
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=30, enable_ldm=True)
    stream = io.BytesIO()
    with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(stream, closefd=False) as writer:
        writer.write(lines([SMALL]) * 100)
    (tmp_path / "a.jsonl.zst").write_bytes(stream.getvalue())
    with pytest.raises(SourceError, match=r"a\.jsonl\.zst cannot be read .*without --long"):
        read(tmp_path / "a.jsonl.zst")


@pytest.mark.thorough
@pytest.mark.parametrize("repeated", [True, False])
def test_large_rows_of_parquet_are_read_a_few_at_a_time(tmp_path, repeated):
    row = {"prompt": "p", "completion": "x" * 8_000_000, "turns": [{"text": "y" * 1_000_000}]}
    text = ["x" * 8_000_000] * 40 if repeated else [f"{i}" * 4_000_000 for i in range(10, 50)]
    table = pa.table({"prompt": [row["prompt"]] * 40, "completion": text, "turns": [row["turns"]] * 40})
    pq.write_table(table, tmp_path / "a.parquet")
    count, mib, said = measured(tmp_path / "a.parquet")
    assert (count, said) == (40, "")
    assert mib < 800, "a column's page is 305 MiB, which the Parquet reader holds twice"


@pytest.mark.thorough
def test_many_rows_of_megabytes_are_sampled_and_read_within_bounds(tmp_path):
    with (tmp_path / "a.jsonl").open("wb") as file:
        for i in range(60):
            file.write(lines([{"prompt": f"p{i}", "completion": "x" * 8_000_000}]))
    count, mib, said = measured(tmp_path / "a.jsonl")
    assert (count, said) == (60, "")
    assert mib < 400


@pytest.mark.thorough
def test_the_limit_can_be_raised_in_the_configuration(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([{"prompt": "p", "completion": "x" * 17 * MIB}]))
    config = CorpusConfig(paths=[str(path)])
    units = plan_files(config.paths, 1 << 30)
    with pytest.raises(SourceError, match=r"corpus\.max_row_bytes"):
        sample_format(units, config)
    raised = CorpusConfig(paths=[str(path)], max_row_bytes=20 * MIB)
    assert [reason for _, _, reason in read_rows(units[0], raised, sample_format(units, raised))] == [""]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.jsonl.zst"])
def test_a_byte_order_mark_alone_is_no_row(tmp_path, name):
    pack: Any = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.split(".")[-1], bytes)
    for content in (b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\xef\xbb\xbf\n \n"):
        (tmp_path / name).write_bytes(pack(content))
        assert read(tmp_path / name) == []


DAYS = pa.array([0, -800_000, 20_000], pa.date32())


@pytest.mark.parametrize(
    ("days", "kind"),
    [(DAYS, "date32"), (pa.array([0, 2**62, 1], pa.timestamp("us")), "timestamp"), (pa.array([[0], [-(10**6)], None],
      pa.list_(pa.date32())), "list")],
)  # fmt: skip
def test_a_value_out_of_range_is_one_row_and_its_column_can_be_dropped(tmp_path, days, kind):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": ["p"] * 3, "completion": ["c"] * 3, "day": days}), path)
    units = plan_files([str(path)], 1 << 20)

    def reasons(**options: Any) -> list[str]:
        config = CorpusConfig(paths=[str(path)], **options)
        return [reason for _, _, reason in read_rows(units[0], config, sample_format(units, config))]

    whole = reasons()
    assert [bool(reason) for reason in whole] == [False, True, False]
    assert "column 'day' holds a value of type " + kind in whole[1]
    assert "out of range" in whole[1]
    assert "corpus.drop_columns" in whole[1]
    assert reasons(drop_columns=["day"]) == [""] * 3, "the cure works"
    assert "source column" in reasons(drop_columns=["day"], source_column="day")[1]


def test_a_column_of_nothing_but_values_out_of_range_is_said_with_the_cure(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": ["p"], "completion": ["c"], "day": DAYS[1:2]}), path)
    template: dict[str, Any] = {"template": {"prompt": "{day}", "response": "{prompt}"}}
    config = CorpusConfig(paths=[str(path)], drop_columns=["day"], **template)
    with pytest.raises(QuarantineLimitError, match=r"'day' holds a value of type date32.* out of range"):
        sample_format(plan_files(config.paths, 1 << 20), config)
    config = CorpusConfig(paths=[str(path)])
    with pytest.raises(QuarantineLimitError, match=r"out of range: .*corpus\.drop_columns"):
        sample_format(plan_files(config.paths, 1 << 20), config)
