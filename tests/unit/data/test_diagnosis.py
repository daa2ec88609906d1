"""What is said of a file that is not what its name says: it names what the file is, and the cure helps."""

from __future__ import annotations

import bz2
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from s2l_ray.config import CorpusConfig
from s2l_ray.data.diagnosis import diagnose
from s2l_ray.data.formats import UnknownFormat
from s2l_ray.data.quarantine import QuarantineLimitError
from s2l_ray.data.read_task import read_rows, sample_format
from s2l_ray.data.sources import plan_files
from s2l_ray.data.units import SourceError
from s2l_ray.errors import MAX_MESSAGE

ROWS: list[dict[str, Any]] = [{"prompt": f"p{i}", "completion": "c"} for i in range(5)]
LINES = "".join(json.dumps(r) + "\n" for r in ROWS)
PAGE = b"<!DOCTYPE html>\n<html><head><title>Not found</title></head>\n<body>404</body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def text(value: Any, **options: Any) -> bytes:
    return json.dumps(value, **options).encode()


def read(path: Path) -> list[Any]:
    config = CorpusConfig(paths=[str(path)])
    units = plan_files(config.paths, 1 << 20)
    format = sample_format(units, config)
    return [record and json.loads(record["row"]) for u in units for record, _, _ in read_rows(u, config, format)]


def refusal(path: Path) -> str:
    with pytest.raises((SourceError, UnknownFormat, QuarantineLimitError)) as caught:
        read(path)
    said = str(caught.value)
    assert path.name in said
    assert len(said) <= MAX_MESSAGE
    return said


READABLE = {
    "mark.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "mark.json": b"\xef\xbb\xbf" + text(ROWS),
    "mark.csv": b"\xef\xbb\xbfprompt,completion\n" + "".join(f"p{i},c\n" for i in range(5)).encode(),
    "many_lines.json": text(ROWS, indent=2),
    "lines.json": LINES.encode(),
    "windows.jsonl": LINES.replace("\n", "\r\n").encode(),
}


@pytest.mark.parametrize("name", READABLE)
def test_files_that_are_what_they_say(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(READABLE[name])
    assert read(path) == ROWS


REFUSED = {
    "mark_array.jsonl": (b"\xef\xbb\xbf" + text(ROWS, indent=1), "a JSON array, not one object per line"),
    "array.jsonl": (text(ROWS), "give it the ending .json"),
    "array_of_lines.jsonl": (b"[\n" + LINES.strip().replace("\n", ",\n").encode() + b"\n]", "ending .json"),
    "long_array.jsonl": (text([{"prompt": "p", "completion": "x" * 5000}] * 2000, indent=1), "ending .json"),
    "arrays.json": (text(ROWS) + b"\n" + text(ROWS), "several JSON arrays"),
    "lists.jsonl": (b'["p", "c"]\n' * 5, "its rows are lists, not objects"),
    "lists.json": (text([["p", "c"]] * 5), "its rows are lists, not objects"),
    "one_object.jsonl": (text(ROWS[0], indent=2), "stretch over several lines"),
    "one_object.json": (text(ROWS[0], indent=2), "jq -c . FILE"),
    "objects.json": (b"\n".join(text(r, indent=2) for r in ROWS), "stretch over several lines"),
    "data.json": (text({"data": ROWS}), "its key 'data'; write them one per line: jq -c '.[\"data\"][]' FILE"),
    "data.jsonl": (text({"version": 1, "data": ROWS}, indent=2), "its key 'data'"),
    "data_within.json": (text({"a": {"b": {"rows": ROWS}}}), "keys 'a' → 'b' → 'rows'"),
    "by_id.json": (text({f"id{i}": r for i, r in enumerate(ROWS)}), "whose values are the rows"),
    "columns.json": (text({"prompt": ["a", "b"], "completion": ["c", "d"]}), "a list for every column"),
    "concatenated.jsonl": ("".join(LINES.split("\n")).encode(), "several objects on a line"),
    "concatenated.json": (" ".join(LINES.split("\n")).encode(), "several objects on a line"),
    "commas.jsonl": (LINES.strip().replace("\n", ",\n").encode(), "its objects are separated by commas"),
    "twice.jsonl": (b"\n".join(text(json.dumps(r)) for r in ROWS), "jq -c fromjson"),
    "python.jsonl": ("\n".join(map(str, ROWS)).encode(), "Python's notation"),
    "python.json": (str(ROWS).encode(), "Python's notation"),
    "wide.jsonl": (LINES.encode("utf-16"), "iconv -f UTF-16"),
    "wide_unmarked.jsonl": (LINES.encode("utf-16-le"), "iconv -f UTF-16"),
    "wide.json": (text(ROWS).decode().encode("utf-16-be"), "iconv -f UTF-16"),
    "wide.csv": ("prompt,completion\na,b\n".encode("utf-16"), "iconv -f UTF-16"),
    "wide_unmarked.csv": ("prompt,completion\na,b\n".encode("utf-16-le"), "iconv -f UTF-16"),
    "wider.jsonl": (LINES.encode("utf-32"), "iconv -f UTF-32"),
    "latin.jsonl": ('{"prompt": "é", "completion": "ü"}\n'.encode("latin-1") * 5, "not UTF-8 text"),
    **{f"page.{e}": (PAGE, "a web page") for e in ("jsonl", "json", "csv", "parquet", "jsonl.gz")},
    "page_within.jsonl.gz": (gzip.compress(b"\n\n" + PAGE), "a web page"),
    "denied.json": (b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>", "a server's answer"),
    "pointer.jsonl": (POINTER, "git lfs pull"),
    "pointer.parquet": (POINTER, "git lfs pull"),
    "binary.jsonl": (bytes(range(256)) * 40, "a binary file"),
    "binary.json": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, "a binary file"),
    "parquet.jsonl": (parquet(), "give it the ending .parquet"),
    "archive.json": (b"PK\x03\x04" + bytes(range(256)), "a ZIP archive"),
    "gzip.jsonl": (gzip.compress(LINES.encode()), "give it the ending .gz"),
    "gzip.csv": (gzip.compress(LINES.encode()), "give it the ending .gz"),
    "zstd.json": (zstandard.compress(LINES.encode()), "give it the ending .zst"),
    "bzip.jsonl": (bz2.compress(LINES.encode()), "give it the ending .bz2"),
    "gzip.jsonl.zst": (gzip.compress(LINES.encode()), "packed with gzip; give it the ending .gz"),
    "plain.jsonl.gz": (LINES.encode(), "not packed with gzip, as its ending says"),
    "tabs.csv": (b"prompt\tcompletion\na\tb\n", "separated by tabs"),
    "semicolons.csv": (b"prompt;completion\na;b\n", "separated by semicolons"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_something_else_is_named_with_the_cure(tmp_path, name):
    path = tmp_path / name
    content, words = REFUSED[name]
    path.write_bytes(content)
    said = refusal(path)
    assert words in said
    assert said.count(words) == 1, "once is enough"


@pytest.mark.parametrize("orient", ["columns", "list"])
def test_pandas_own_forms_are_recognised_and_the_cure_helps(tmp_path, orient):
    path, frame = tmp_path / "a.json", pd.DataFrame(ROWS)
    path.write_bytes(text(frame.to_dict(orient="list")) if orient == "list" else frame.to_json().encode())
    cure = refusal(path).split("write one object per row: ")[1]
    assert cure.startswith("pandas.read_json(file).to_json('rows.jsonl', orient='records', lines=True)")
    pd.read_json(path).to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    assert read(tmp_path / "rows.jsonl") == ROWS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"hello world\n" * 3),
        ("a.jsonl", b'"a"\n"b"\n'),
        ("a.json", b"42"),
        ("a.json", b"null"),
        ("a.json", text(ROWS)[:-20]),
        ("a.json", b'{"a": ' * 3000),
        ("a.jsonl.gz", gzip.compress(LINES.encode())[:-9]),
        ("a.parquet", parquet()[:-9]),
        ("a.jsonl", b'{"conversations": [{"from": "human"}]}'),
    ],
)
def test_nothing_is_guessed(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    refusal(path)
    assert [diagnose(unit) for unit in plan_files([str(path)], 1 << 20)] == [""]


def test_one_odd_row_does_not_decide_the_format(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(LINES + '{"messages": null, "prompt": "p", "completion": "c"}\n' + LINES.replace("p", "q"))
    config = CorpusConfig(paths=[str(path)])
    assert sample_format(plan_files(config.paths, 1 << 20), config) == "prompt_completion"


def test_two_kinds_of_rows_are_of_the_first_format_that_some_have(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(LINES + '{"instruction": "p", "output": "c"}\n' * 6)
    config = CorpusConfig(paths=[str(path)])
    assert sample_format(plan_files(config.paths, 1 << 20), config) == "instruction"
