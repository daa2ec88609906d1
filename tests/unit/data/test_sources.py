"""Files → rows: every kind of file, and what is said about files and lines that cannot be read."""

from __future__ import annotations

import bz2
import datetime
import decimal
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from s2l_ray.data.sources import plan_files, read_unit
from s2l_ray.data.units import RawRow, SourceError
from s2l_ray.storage.folder import Storage

ROWS = [{"prompt": f"p{i} é", "completion": "x" * i, "source": "s"} for i in range(7)]
JSONL = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS).encode()


def csv_bytes(rows: list[dict[str, Any]]) -> bytes:
    lines = [",".join(rows[0])] + [",".join(f'"{v}"' for v in r.values()) for r in rows]
    return ("\ufeff" + "\r\n".join(lines)).encode()


def parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


FILES = {
    "a.jsonl": JSONL,
    "a.ndjson": JSONL.rstrip(b"\n"),
    "a.JSONL": JSONL.replace(b"\n", b"\r\n"),
    "a.jsonl.gz": gzip.compress(JSONL[:50]) + gzip.compress(JSONL[50:]),
    "a.jsonl.zst": zstandard.compress(JSONL),
    "a.jsonl.bz2": bz2.compress(JSONL),
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "bom.json": b"\xef\xbb\xbf " + json.dumps(ROWS).encode(),
    "lines.json": JSONL,
    "a.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "a.csv": csv_bytes(ROWS),
    "a.csv.gz": gzip.compress(csv_bytes(ROWS)),
    "a.parquet": parquet_bytes(ROWS),
    "a.pq": parquet_bytes(ROWS),
}


def raw_rows(paths: list[Any], bytes_per_task: int = 1 << 20) -> list[RawRow]:
    units = plan_files([str(p) for p in paths], bytes_per_task)
    return [raw for unit in units for raw in read_unit(unit)]


def rows_of(*paths: Any) -> list[dict[str, Any]]:
    raws = raw_rows(list(paths))
    assert [r.reason for r in raws if r.row is None] == []
    return [r.row for r in raws if r.row is not None]


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --- kinds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    assert rows_of(write(tmp_path / name, FILES[name])) == ROWS


def test_rows_know_where_they_come_from(tmp_path):
    path = write(tmp_path / "a.jsonl", JSONL)
    raws = raw_rows([path], bytes_per_task=100)
    assert {r.origin for r in raws} == {str(path)}
    for raw in raws:  # the byte at which the line starts
        assert json.loads(JSONL[raw.index :].split(b"\n")[0]) == raw.row
    for name in ("a.csv", "a.parquet", "a.jsonl.gz", "a.json"):
        assert [r.index for r in raw_rows([write(tmp_path / name, FILES[name])])] == list(range(len(ROWS)))


def test_parquet_columns_of_other_types(tmp_path):
    row = {
        "day": datetime.date(2024, 1, 2),
        "at": datetime.datetime(2024, 1, 2, 3, 4, 5, 6),
        "price": decimal.Decimal("1.10"),
        "raw": b"\x00\xff",
        "turns": [{"role": "user", "content": "x"}],
        "none": None,
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet") == [row]


def test_csv_fields_hold_line_breaks_quotes_and_long_texts(tmp_path):
    data = b'a,b\n"one\ntwo","say ""hi"""\n\n' + b"x" * 300_000 + b",\n"
    rows = rows_of(write(tmp_path / "a.csv", data))
    assert rows == [{"a": "one\ntwo", "b": 'say "hi"'}, {"a": "x" * 300_000, "b": ""}]


# --- finding files --------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", "sub/deep/d.jsonl.gz", "xsub/e.jsonl", "[1].jsonl"):
        data = json.dumps({"name": name}).encode()
        write(tmp_path / "data" / name, gzip.compress(data) if name.endswith("gz") else data)
    for name in ("notes.txt", "_SUCCESS", ".hidden.jsonl", ".ipynb_checkpoints/old.jsonl", "_temporary/0/x.json"):
        write(tmp_path / "data" / name, b'{"name": "not data"}')
    return tmp_path / "data"


ALL = ["[1].jsonl", "a.jsonl", "b.jsonl", "sub/c.jsonl", "sub/deep/d.jsonl.gz", "xsub/e.jsonl"]
PATTERNS = [
    ("a.jsonl", ["a.jsonl"]),
    ("?.jsonl", ["a.jsonl", "b.jsonl"]),
    ("*.jsonl", ALL[:3]),
    ("*/*.jsonl", ["sub/c.jsonl", "xsub/e.jsonl"]),
    ("**/*.jsonl", ALL[:4] + ALL[5:]),
    ("sub/**/*.jsonl*", ["sub/c.jsonl", "sub/deep/d.jsonl.gz"]),
    ("**/sub/*.jsonl", ["sub/c.jsonl"]),
    ("*b/c.jsonl", ["sub/c.jsonl"]),
]


def in_uri(pattern: str) -> str:
    return pattern.replace("?", "%3F")


def names(paths: list[str]) -> list[str]:
    return [str(r["name"]) for r in rows_of(*paths)]


def test_a_folder_is_read_whole_without_what_others_put_there(tree):
    assert names([str(tree)]) == ALL
    assert names([f"{tree}/"]) == ALL
    assert names([f"file://{tree}"]) == ALL


@pytest.mark.parametrize(("pattern", "found"), PATTERNS)
def test_local_globs(tree, pattern, found):
    assert names([f"{tree}/{pattern}"]) == found
    assert names([f"file://{tree}/{in_uri(pattern)}"]) == found


def test_several_paths_keep_their_order_and_names_with_brackets_are_names(tree, monkeypatch):
    assert names([f"{tree}/b.jsonl", f"{tree}/[1].jsonl", f"{tree}/a.jsonl"]) == ["b.jsonl", "[1].jsonl", "a.jsonl"]
    monkeypatch.chdir(tree.parent)
    units = plan_files(["data/a.jsonl"], 1000)
    assert units[0].uri == str(tree / "a.jsonl")  # a Ray worker has another working directory
    assert names(["data/[ab].jsonl"]) == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize("path", ["none.jsonl", "no*.jsonl", "nofolder/", "sub/none/*.jsonl"])
def test_nothing_found_names_the_pattern(tree, path):
    with pytest.raises(SourceError, match="nothing matches") as caught:
        plan_files([f"{tree}/a.jsonl", f"{tree}/{path}"], 1000)
    assert path in str(caught.value)


def test_a_question_mark_in_a_uri_is_not_taken_for_less(tree):
    with pytest.raises(SourceError, match="%3F"):
        plan_files([f"file://{tree}/?.jsonl"], 1000)


@pytest.mark.parametrize("path", ["notes.txt", "n*"])
def test_wrong_extensions_are_refused_when_asked_for(tree, path):
    with pytest.raises(SourceError, match=r"notes\.txt' is of no supported kind \(\.arrow, \.csv.*rename or convert"):
        plan_files([f"{tree}/{path}"], 1000)


def test_empty_files_are_no_corpus_but_may_lie_beside_one(tmp_path):
    write(tmp_path / "empty.jsonl", b"")
    with pytest.raises(SourceError, match="are empty, so there is nothing"):
        plan_files([str(tmp_path)], 1000)
    write(tmp_path / "full.jsonl", JSONL)
    assert rows_of(tmp_path) == ROWS


# --- slices of JSONL ------------------------------------------------------------------------------------------------


def test_the_plan_covers_the_file(tmp_path):
    path = write(tmp_path / "a.jsonl", JSONL)
    units = plan_files([str(path)], 64)
    assert [u.start for u in units] == list(range(0, len(JSONL), 64))
    assert [u.end for u in units] == [*(u.start for u in units[1:]), len(JSONL)]
    assert {u.size for u in units} == {len(JSONL)}
    assert [r.row for u in units for r in read_unit(u)] == ROWS
    assert len(plan_files([str(write(tmp_path / "a.jsonl.gz", FILES["a.jsonl.gz"]))], 64)) == 1


# --- rows and files that cannot be read -----------------------------------------------------------------------------


def test_bad_lines_say_why_and_the_others_are_read(tmp_path):
    bad = {
        b'{"a": 1': "bad JSON: Expecting ',' delimiter: line 1 column 8 (char 7)",
        b"[1]": "the line holds list, not an object",
        b'"text"': "the line holds str, not an object",
        b"null": "the line holds NoneType, not an object",
        b'{"a": "\xff"}': "not UTF-8",
        b"[" * 100_000: "bad JSON: ",
    }
    data = b"".join(line + b'\n{"good": 1}\n' for line in bad)
    for name, content in (("a.jsonl", data), ("a.jsonl.gz", gzip.compress(data)), ("a.json", b" " + data)):
        raws = raw_rows([write(tmp_path / name, content)])
        reasons = [r.reason or "" for r in raws if r.row is None]
        assert len(reasons) == len(bad)
        assert all(said.startswith(expected) for said, expected in zip(reasons, bad.values(), strict=True)), reasons
        assert [r.row for r in raws if r.row is not None] == [{"good": 1}] * len(bad)
        assert all(0 < len(r.text) <= 500 for r in raws if r.row is None)


def test_elements_of_an_array_that_are_no_objects(tmp_path):
    raws = raw_rows([write(tmp_path / "a.json", b'[{"a": NaN}, 3, ["x"]]')])
    assert [r.reason for r in raws] == [None, "the element is int, not an object", "the element is list, not an object"]
    assert [r.index for r in raws] == [0, 1, 2]


def test_csv_rows_of_another_width(tmp_path):
    raws = raw_rows([write(tmp_path / "a.csv", b"a,b\n1,2\n3\n4,5,6\n7,8\n")])
    width = "the row does not have as many fields as the header"
    assert [r.reason for r in raws] == [None, width, width, None]
    assert [r.index for r in raws] == [0, 1, 2, 3]


BROKEN = {
    "cut.jsonl.gz": gzip.compress(JSONL * 100)[:-10],
    "cut.jsonl.zst": zstandard.compress(os.urandom(50_000).hex().encode())[:-10],
    "plain.jsonl.gz": JSONL,
    "cut.parquet": parquet_bytes(ROWS)[:-20],
    "damaged.parquet": b"PAR1" + b"\x00" * 60 + parquet_bytes(ROWS)[64:],
    "text.parquet": JSONL,
    "array.json": json.dumps(ROWS, indent=1).encode()[:-30],
    "latin1.json": json.dumps(ROWS, ensure_ascii=False).encode("latin-1"),
    "latin1.csv": "a,b\né,è\n".encode("latin-1"),
    "quote.csv": b'a,b\n1,"2\n',
    "twice.csv": b"a,a\n1,2\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_an_error_that_names_it(tmp_path, name):
    path = write(tmp_path / name, BROKEN[name])
    with pytest.raises(SourceError) as caught:
        raw_rows([path])
    assert str(caught.value).startswith(f"{path} cannot be read (")
    assert "Repair the file" in str(caught.value)


# --- S3 -------------------------------------------------------------------------------------------------------------


def on_s3(uri: str, *parts: str) -> str:
    folder, query = uri.split("?")
    return f"{folder}/{'/'.join(parts)}?{query}"


@pytest.mark.thorough
def test_s3_files_folders_and_globs(s3_uri, tree):
    storage = Storage.open(s3_uri)
    for path in sorted(tree.rglob("*")):
        if path.is_file() and "[" not in path.name:
            storage.write_bytes(path.relative_to(tree).as_posix(), path.read_bytes())
    for pattern, found in PATTERNS:
        assert names([on_s3(s3_uri, in_uri(pattern))]) == [n for n in found if "[" not in n], pattern
    assert names([s3_uri]) == [n for n in ALL if "[" not in n]
    with pytest.raises(SourceError, match=r"nothing matches .*none\.jsonl"):
        plan_files([on_s3(s3_uri, "none.jsonl")], 1000)
    with pytest.raises(SourceError, match="nothing matches"):
        plan_files([on_s3(s3_uri, "no/such/*.jsonl")], 1000)


@pytest.mark.thorough
def test_s3_slices_spaces_and_kinds(s3_uri):
    storage = Storage.open(s3_uri)
    for name in ("a.jsonl", "a.parquet", "a.jsonl.zst"):
        storage.write_bytes(f"with space/{name}", FILES[name])
    folder = on_s3(s3_uri, "with%20space")
    units = plan_files([folder], 64)
    assert sum(u.kind == "jsonl" and not u.compression for u in units) == -(-len(JSONL) // 64)
    assert [r.row for u in units for r in read_unit(u)] == ROWS * 3


@pytest.mark.thorough
def test_s3_credentials_in_the_uri_open_the_files_and_are_never_shown(s3_uri, monkeypatch):
    Storage.open(s3_uri).write_bytes("a.jsonl", JSONL + b"bad\n")
    Storage.open(s3_uri).write_bytes("b.json", b"[1]")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with_user = on_s3(s3_uri, "*").replace("s3://", "s3://AKIDEXAMPLE:verysecret@")
    with_query = on_s3(s3_uri, "*") + "&access_key=AKIDEXAMPLE&secret_key=verysecret"
    for uri in (with_user, with_query):
        raws = raw_rows([uri])
        assert [r.row for r in raws if r.row] == ROWS
        assert [r.reason is not None for r in raws].count(True) == 2
        assert "verysecret" not in str(raws)
        assert "AKIDEXAMPLE" not in str(raws)
        for path in ("none.jsonl", "none*"):
            with pytest.raises(SourceError) as caught:
                plan_files([uri.replace("*", path)], 1000)
            assert "verysecret" not in str(caught.value)
