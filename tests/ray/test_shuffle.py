"""The shuffle: its tasks are bounded by bytes whatever the corpus's size, and its outcome depends on no bound."""

from __future__ import annotations

import itertools
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.config import CorpusConfig
from s2l_ray.data.corpus_parts import choose_rows_per_part
from s2l_ray.data.sources import plan_files
from s2l_ray.stages.corpus import build, shuffle
from s2l_ray.stages.corpus.build import CorpusParts, build_corpus
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import write_jsonl
from tests.support.tiers import rest_thorough

MIB = 2**20
IN_STORE = 2000
"""Bytes of a row of 1 kB in Ray's object store (measured)."""


@settings(deadline=None)
@given(
    num_rows=st.integers(1, 10**8),
    row_bytes=st.integers(50, 10**6),
    parallelism=st.integers(1, 1000),
)
def test_partitions_and_pieces_are_bounded_at_every_size(num_rows: int, row_bytes: int, parallelism: int) -> None:
    num_parts = -(-num_rows // choose_rows_per_part(num_rows, None, row_bytes // 2))
    num_bytes = num_rows * row_bytes
    rounds = shuffle.plan_rounds(num_parts, num_bytes, parallelism)
    assert [r.first for r in rounds] == [0, *(r.end for r in rounds[:-1])]
    assert rounds[-1].end == num_parts
    part_bytes = num_bytes / num_parts
    for r in rounds:
        bounds = [r.first, *r.starts, r.end]
        assert all(a < b for a, b in itertools.pairwise(bounds)), "no partition is empty"
        largest = max(b - a for a, b in itertools.pairwise(bounds))
        assert largest == 1 or (largest - 1) * part_bytes <= shuffle._PARTITION_BYTES
    if num_bytes < 10**12:
        maps = num_bytes / len(rounds) / shuffle._MAP_BYTES + 1
        partitions = max(len(r.starts) + 1 for r in rounds)
        assert maps * partitions < 2 * shuffle._MAX_PIECES + 2 * parallelism * maps


@pytest.mark.parametrize(("num_rows", "num_rounds"), [(10**4, 1), (10**6, 1), (10**7, 1), (10**8, 5)])
def test_rounds_at_the_sizes_that_the_docs_name(num_rows: int, num_rounds: int) -> None:
    num_parts = -(-num_rows // choose_rows_per_part(num_rows, None, 1000))
    assert len(shuffle.plan_rounds(num_parts, num_rows * IN_STORE, 64)) == num_rounds


def rows_of(num: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{i} " + "p" * (i % 400), "completion": "c" * 400, "source": f"s{i % 3}"} for i in range(num)]


def built(folder: Path, path: Path, **options: Any) -> CorpusParts:
    config = CorpusConfig(paths=[str(path)], **options)
    return build_corpus(plan_files(config.paths, 200_000), config, Storage.open(folder), 16, 4)


@pytest.fixture(scope="module")
def corpus(ray_cluster, tmp_path_factory) -> tuple[Path, CorpusParts]:
    """4,000 rows of 600 bytes and 100 duplicates, and what comes of them without any bound that matters."""
    folder = tmp_path_factory.mktemp("shuffle")
    path = write_jsonl(folder / "all.jsonl", [*rows_of(4000), *rows_of(100)])
    return path, built(folder / "plain", path)


@pytest.mark.parametrize(
    ("few_blocks", "max_pieces"),
    rest_thorough([(10**6, 10**6), (0, 40), (0, 10**6), (10**6, 40)]),
)
def test_no_task_sees_more_than_its_bytes(corpus, tmp_path, monkeypatch, few_blocks, max_pieces):
    path, plain = corpus
    limit = 256 * 1024
    monkeypatch.setattr(build, "_BLOCK_BYTES", limit)
    monkeypatch.setattr(shuffle, "_PARTITION_BYTES", limit)
    monkeypatch.setattr(shuffle, "_MAP_BYTES", 2 * limit)
    monkeypatch.setattr(shuffle, "_FEW_BLOCKS", few_blocks)
    monkeypatch.setattr(shuffle, "_MAX_PIECES", max_pieces)
    seen = tmp_path / "seen"
    seen.mkdir()
    real = shuffle.write_parts

    def watching(table: pa.Table, **options: Any) -> Any:
        (seen / uuid.uuid4().hex).write_text(f"{table.nbytes} {table.num_rows}")
        yield from real(table, **options)

    monkeypatch.setattr(shuffle, "write_parts", watching)
    assert built(tmp_path / "run", path) == plain, "no bound changes the parts"
    sizes = [tuple(map(int, file.read_text().split())) for file in seen.iterdir()]
    assert sum(rows for _, rows in sizes) == 4100
    assert len(sizes) > 10
    assert max(num_bytes for num_bytes, _ in sizes) < 1.6 * limit, "a run of parts, with one part's chance"


def test_more_partitions_than_rows_and_one_part(ray_cluster, tmp_path):
    one = built(tmp_path / "one", write_jsonl(tmp_path / "one.jsonl", rows_of(1)))
    assert [p["rows"] for p in one.parts] == [1]
    few = built(tmp_path / "few", write_jsonl(tmp_path / "few.jsonl", rows_of(40)))
    assert sum(p["rows"] for p in few.parts) == 40
