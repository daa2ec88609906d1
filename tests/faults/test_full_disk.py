"""A full disk: a clear end without retries, nothing torn, and the same command completes once there is space."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from s2l_ray import cli
from s2l_ray.artifacts.run import load_run
from s2l_ray.observability.metrics_log import MetricsLog, read_metrics
from s2l_ray.storage.atomic_files import TEMP_PREFIX
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import StorageFullError
from s2l_ray.testing.tiny import tiny_run_config
from tests.support.mounts import mounted

_PAGE = 4096


def resize(folder: Path, num_pages: int, *, mount: bool = False) -> None:
    size = f"size={num_pages * _PAGE}"
    mounted(*(["-t", "tmpfs", "-o", size, "tmpfs"] if mount else ["-o", f"remount,{size}"]), folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 64 pages large."""
    folder = tmp_path / "disk"
    folder.mkdir()
    resize(folder, 64, mount=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def pages(folder: Path, *patterns: str) -> int:
    """What the files take on a tmpfs."""
    found = [p for pattern in patterns for p in folder.glob(pattern) if p.is_file()]
    return sum(math.ceil(p.stat().st_size / _PAGE) for p in found)


def assert_nothing_is_torn(folder: Path) -> None:
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert files
    for path in files:
        assert not path.name.startswith(TEMP_PREFIX), path
        if path.suffix == ".parquet":
            pq.read_table(path, page_checksum_verification=True, partitioning=None)
        elif path.suffix == ".json" and path.name != "checkpoint_manager_snapshot.json":  # Ray Train's own
            json.loads(path.read_text())


def test_a_write_that_finds_no_space_is_named_and_leaves_the_old_file(small_disk):
    storage = Storage.open(small_disk)
    storage.write_bytes("ids", b"old")
    for write in (
        lambda: storage.write_bytes("ids", bytes(65 * _PAGE)),
        lambda: storage.upload_folder(folder_of(small_disk.parent, 65 * _PAGE)),
    ):
        with pytest.raises(StorageFullError) as full:
            write()
        assert "No space left on device" in str(full.value)
        assert "run the same command to resume" in str(full.value)
        assert str(small_disk / "ids") in str(full.value)
        assert storage.read_bytes("ids") == b"old"
        assert [p.name for p in small_disk.iterdir()] == ["ids"]


def folder_of(where: Path, num_bytes: int) -> Path:
    folder = where / "to upload"
    folder.mkdir(exist_ok=True)
    (folder / "ids").write_bytes(bytes(num_bytes))
    return folder


def test_the_record_loses_no_later_line_to_one_that_found_no_space(small_disk):
    storage = Storage.open(small_disk)
    log = MetricsLog(storage)
    log.log("proxy", "before")
    storage.write_bytes("ballast", bytes(62 * _PAGE))
    log.log("proxy", "large", text="x" * 3 * _PAGE)
    storage.delete("ballast")
    log.log("proxy", "after")
    log.close()
    events = [line["event"] for line in read_metrics(storage)]
    assert events[0] == "before"
    assert events[-1] == "after"
    assert "large" in events


@pytest.mark.thorough
def test_a_run_ends_clearly_wherever_the_disk_is_full_and_completes_with_space(finished, small_disk, tmp_path, capfd):
    whole = finished.storage.local_path()
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tiny_run_config(small_disk)))
    before = pages(whole, "quickstart/*") + 8  # the configuration, the lock, the record
    corpus, tokens = pages(whole, "corpus/**/*"), pages(whole, "tokens/**/*")
    for stage, num_pages in (("corpus", before + corpus // 2), ("proxy", before + corpus + tokens + 24)):
        resize(small_disk, num_pages)
        assert cli.main(["run", str(config)]) == 1
        out, err = capfd.readouterr()
        said = [line for line in err.splitlines() if line.startswith("s2l: ")]
        assert len(said) == 1, err
        assert f"No space left on device (or quota used up) while writing {small_disk}/{stage}/" in said[0]
        assert "run the same command to resume" in said[0]
        assert not list(small_disk.glob(f"{stage}/*/manifest.json"))
        assert_nothing_is_torn(small_disk)
        with contextlib.suppress(FileNotFoundError):
            assert not list((small_disk / "locks").iterdir()), "the lock is given back"
    assert "[corpus] done" in out, "the first stage was completed once it had space"
    resize(small_disk, 10_000)
    assert cli.main(["run", str(config)]) == 0
    assert "[corpus] unchanged, skipped" in capfd.readouterr().out
    mine = load_run(str(small_disk))
    for name, stage in finished.stages.items():
        assert mine.stages[name].manifest.content_fingerprint == stage.manifest.content_fingerprint, name
