"""Thousands of small files and parts: nothing is lost, and the driver does not grow with them."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import psutil
import pytest

import s2l_ray
from s2l_ray.data.example_id import array_to_hex
from s2l_ray.data.formats import to_conversation
from s2l_ray.data.units import ReadUnit
from s2l_ray.stages.corpus.build import group_units
from s2l_ray.testing.tiny import tiny_run_config

_MB = 2**20


class PeakMemory:
    """Resident memory of this process while the block runs, above what it was before (bytes)."""

    def __enter__(self) -> PeakMemory:
        self._process, self._done, self.peak = psutil.Process(), threading.Event(), 0
        self._before = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            self.peak = max(self.peak, self._process.memory_info().rss - self._before)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


@pytest.mark.parametrize(
    ("sizes", "bytes_per_task", "num_groups"),
    [
        ([10] * 10_000, 10**6, 16),  # small files: what keeps four tasks at a time busy
        ([10**6] * 100, 10**6, 100),  # as large as a task's share: a task each
        ([5], 10**6, 1),
        ([10**6, *[1] * 1000], 10**4, 2),  # nothing but one large one, and the rest
    ],
)
def test_small_files_share_a_read_task_and_none_is_left_out(sizes, bytes_per_task, num_groups):
    units = [ReadUnit(f"{i}.jsonl", "jsonl", None, 0, size, size) for i, size in enumerate(sizes)]
    groups = group_units(units, bytes_per_task, parallelism=4)
    assert [unit for group in groups for unit in group] == units
    assert len(groups) == num_groups


@pytest.mark.thorough
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("num_files", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_corpus_of_thousands_of_files_and_parts_comes_through_whole(num_files: int, tmp_path: Path):
    rows = [{"instruction": f"say {i}", "output": f"{i * 7919 % 100_003}"} for i in range(num_files)]
    for i, row in enumerate(rows):
        (tmp_path / f"{i:05d}.jsonl").write_text(json.dumps(row) + "\n")
    tree = tiny_run_config(
        tmp_path / "run", trajectories__examples_per_part=1, trajectories__num_snapshots=2, proxy__epochs=1,
        proxy__global_batch_size=128,
    )  # fmt: skip
    tree["corpus"] = {"paths": [str(tmp_path / "*.jsonl")]}
    with PeakMemory() as memory:
        run = s2l_ray.run(tree)
    config = run.config.corpus
    expected = {to_conversation(row, "instruction", config).id.hex() for row in rows}
    assert len(expected) == num_files
    matrix = run.trajectories()
    assert set(array_to_hex(matrix.ids)) == expected
    assert len(matrix.ids) == num_files
    # Ranges of the hash: with one example a part on average, 63 of 100 hold one or more.
    assert len(matrix.part_rows) > num_files / 2
    assert memory.peak < 600 * _MB
