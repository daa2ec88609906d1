"""What killed processes leave behind, and who deletes it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from s2l_ray.storage.atomic_files import delete_unfinished_files
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.scratch import new_scratch_prefix, scratch_folder
from tests.support.paths import ROOT

KILLED_INSIDE = """
import os, signal, sys
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.scratch import scratch_folder
with scratch_folder() as folder, Storage.open(sys.argv[1]).atomic_output(sys.argv[2]) as stream:
    (folder / "weights").write_bytes(b"x" * 1000)
    stream.write(b"half")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def killed_while_it_writes(run: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_INSIDE, str(run), name], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == -9


@pytest.mark.thorough
def test_a_killed_processs_scratch_folder_is_deleted_by_the_next_that_needs_one(tmp: Path, tmp_path: Path) -> None:
    killed_while_it_writes(tmp_path / "run", "proxy/model/weights")
    [left] = tmp.iterdir()
    assert (left / "weights").exists()
    with scratch_folder() as mine:
        assert [mine] == list(tmp.iterdir())
        with scratch_folder() as second:
            assert {mine, second} == set(tmp.iterdir()), "a living process's stays"
    assert not list(tmp.iterdir())


def test_folders_of_others_stay(tmp: Path) -> None:
    """Of another machine (a shared TMPDIR), and of whoever else has a name that begins alike."""
    mine = new_scratch_prefix()
    prefix, machine, pid, start, _ = mine.rsplit("-", 4)
    assert prefix == "s2l-scratch"
    elsewhere = tmp / f"{prefix}-{'0' * len(machine)}-{pid}-{start}-abc"
    for other in (elsewhere, tmp / "s2l-scratch-notes", tmp / "s2l-scratch-x-y-z-", tmp / f"{mine}alive"):
        other.mkdir()
    reused = tmp / f"{prefix}-{machine}-{pid}-{'0' * len(start)}-abc"  # an earlier process with this one's pid
    reused.mkdir()
    with scratch_folder():
        assert elsewhere.exists()
        assert not reused.exists()
        assert len(list(tmp.iterdir())) == 5


@pytest.mark.parametrize("name", ["run.json", "proxy/key/model/weights", "tokens/key/parts/part-0.parquet"])
def test_a_killed_writers_half_of_a_file_is_deleted_wherever_it_lies(tmp: Path, tmp_path: Path, name: str) -> None:
    storage = Storage.open(tmp_path / "run")
    storage.write_bytes("config.yaml", b"whole")
    killed_while_it_writes(tmp_path / "run", name)
    assert len(list((tmp_path / "run").rglob(".tmp-*"))) == 1
    delete_unfinished_files(storage.filesystem, storage.path)
    assert not list((tmp_path / "run").rglob(".tmp-*"))
    assert storage.read_bytes("config.yaml") == b"whole"


def test_where_others_write_too_only_what_is_old_is_taken_for_abandoned(tmp: Path, tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "run")
    killed_while_it_writes(tmp_path / "run", "locks/0123.json")
    delete_unfinished_files(storage.filesystem, storage.path, shared=("locks",))
    [temp] = (tmp_path / "run/locks").glob(".tmp-*")
    os.utime(temp, (time.time() - 3600,) * 2)
    delete_unfinished_files(storage.filesystem, storage.path, shared=("locks",))
    assert not temp.exists()


def test_a_folder_that_is_not_there_has_no_leftovers(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "nowhere")
    delete_unfinished_files(storage.filesystem, storage.path)
    assert not storage.exists()
