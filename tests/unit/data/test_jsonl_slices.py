"""Slices of JSONL files: whatever their size, every line is read exactly once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.data.sources import read_unit
from s2l_ray.data.units import ReadUnit


def check_slices(path: Path, data: bytes, size: int) -> None:
    path.write_bytes(data)
    units = [ReadUnit(str(path), "jsonl", None, s, min(len(data), s + size)) for s in range(0, len(data), size)]
    found = [(raw.index, raw.row) for unit in units for raw in read_unit(unit)]
    expected, at = [], 0
    for line in data.split(b"\n"):
        if line.strip():
            expected.append((at, json.loads(line.decode("utf-8-sig"))))
        at += len(line) + 1
    assert found == expected


LINES = st.lists(st.one_of(st.text("aé漢😀 ", max_size=12), st.just("x" * 90), st.none()), max_size=8)


@pytest.mark.thorough
@settings(max_examples=150, deadline=None)
@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans(), st.integers(1, 130))
def test_every_slice_size_gives_every_line_once(tmp_path_factory, texts, newline, bom, last_newline, size):
    path = tmp_path_factory.getbasetemp() / "slices.jsonl"
    lines = ["  " if t is None else json.dumps({"t": t}, ensure_ascii=False) for t in texts]
    text = newline.join(lines) + (newline if last_newline else "")
    has_bom = bom and bool(lines) and lines[0].strip() != ""
    check_slices(path, (b"\xef\xbb\xbf" if has_bom else b"") + text.encode(), size)


def test_every_single_slice_size_of_one_awkward_file(tmp_path):
    lines = [b'\xef\xbb\xbf{"t": 1}', b"", b"\r", '{"t": "漢字"}'.encode(), b'{"t": "' + b"y" * 60 + b'"}', b'{"t": 2}']
    data = b"\n".join(lines)
    for size in range(1, len(data) + 2):
        check_slices(tmp_path / "a.jsonl", data, size)


def test_a_line_longer_than_any_buffer(tmp_path):
    data = b'{"t": 1}\n{"t": "' + b"z" * 3_000_000 + b'"}\n{"t": 2}\n'
    check_slices(tmp_path / "a.jsonl", data, 1 << 20)
