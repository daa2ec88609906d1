"""What a file system refuses is told with the file, the cause and the cure, and never as a traceback."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2l_ray.cli import main
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import StorageError, StorageFullError
from s2l_ray.testing.tiny import tiny_run_config


def make_read_only(mount: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", mount], check=True)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "folder").mkdir(parents=True)
    (folder / "folder/x").write_text("x")
    (folder / "plain").write_text("x")
    (folder / "circle").symlink_to("circle")
    (folder / "dangling").symlink_to("nowhere/at/all")
    return folder


OPERATIONS: dict[str, Callable[[Storage, str], Any]] = {
    "write_bytes": lambda s, name: s.write_bytes(name, b"x"),
    "write_json": lambda s, name: s.write_json(name, {}),
    "upload_file": lambda s, name: s.upload_file(Path(__file__), name),
    "read_bytes": lambda s, name: s.read_bytes(name),
    "read_table": lambda s, name: s.read_table(name),
    "open_input": lambda s, name: s.open_input(name),
    "list": lambda s, name: s.list(name),
    "delete": lambda s, name: s.delete(name),
}
WRITING, READING = ("write_bytes", "write_json", "upload_file"), ("read_bytes", "read_table", "open_input")
CASES = [
    *((op, "folder", "is a folder, where a file should be") for op in (*WRITING, *READING, "delete")),
    *((op, "plain/below/x", "plain is a file, where a folder should be") for op in WRITING),
    *((op, "plain/x", "plain is a file, where a folder should be") for op in READING),
    ("list", "plain", "plain is a file, where a folder should be"),
    *((op, "x" * 300, "too long for the file system") for op in (*WRITING, *READING, "list")),
    *((op, "circle/x", "circle|leads nowhere") for op in (*WRITING, *READING)),
    *((op, "dangling/x", "leads nowhere") for op in WRITING),
]


@pytest.mark.parametrize(("operation", "name", "message"), CASES)
def test_what_is_in_the_way_is_named(run: Path, operation: str, name: str, message: str) -> None:
    with pytest.raises(StorageError, match=message) as error:
        OPERATIONS[operation](Storage.open(run), name)
    assert str(run)[:200] in str(error.value)
    assert "run the same command again" in str(error.value)
    assert len(str(error.value)) < 1500


def test_what_is_missing_is_missing(run: Path) -> None:
    for operation in READING[::2]:
        with pytest.raises(FileNotFoundError):
            OPERATIONS[operation](Storage.open(run), "nothing")
    assert Storage.open(run).list("nothing") == []


@pytest.mark.parametrize("operation", [*WRITING, "delete"])
def test_a_read_only_disk(mount: Path, operation: str) -> None:
    (mount / "a").write_text("x")
    make_read_only(mount)
    with pytest.raises(StorageError, match=r"mounted read-only\. Remount it for writing, or choose another run_dir"):
        OPERATIONS[operation](Storage.open(mount), "a")
    assert Storage.open(mount).read_bytes("a") == b"x"


def fill_with_files(mount: Path) -> None:
    for i in range(100):
        Storage.open(mount).write_bytes(f"{i}", b"")


def test_no_room_and_no_inodes(mount: Path) -> None:
    with pytest.raises(StorageFullError, match="No space left"):
        Storage.open(mount).write_bytes("a", b"x" * (2 << 20))
    assert Storage.open(mount).list() == []
    with pytest.raises(StorageFullError, match="No space left"):
        fill_with_files(mount)


def test_an_immutable_folder(run: Path) -> None:
    if subprocess.run(["chattr", "+i", run / "folder"], capture_output=True).returncode:
        pytest.skip("this file system knows no immutable folders")
    try:
        with pytest.raises(StorageError, match=r"this user .* may not do that"):
            Storage.open(run).write_bytes("folder/new", b"x")
    finally:
        subprocess.run(["chattr", "-i", run / "folder"], check=True)


@pytest.mark.parametrize("operation", ["write_bytes", "read_bytes", "list"])
def test_too_many_open_files(run: Path, operation: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    storage = Storage.open(run)
    OPERATIONS[operation](storage, "fine" if operation == "write_bytes" else "plain" if operation != "list" else "")
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], 256), limits[1]))
    try:
        while True:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        with pytest.raises(StorageError, match=r"too many files are open at once .*ulimit -n"):
            OPERATIONS[operation](storage, "plain" if operation != "list" else "")
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("case", ["read-only", "file", "lock is a folder", "locks is a file", "name"])
def test_the_command_refuses_before_anything_is_started(
    tmp_path: Path, mount: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = mount / "run"
    if case == "name":
        run = mount / ("x" * 300)
    elif case == "file":
        run.write_text("x")
    elif case == "locks is a file":
        run.mkdir()
        (run / "locks").write_text("x")
    elif case == "lock is a folder":
        (run / "config.yaml").mkdir(parents=True)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(tiny_run_config(run)))
    if case == "read-only":
        make_read_only(mount)
    assert main(["run", str(tmp_path / "my.yaml")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 or (case == "name" and len(said) == 2), said  # a fault of the configuration is in its list
    assert said[0].startswith("s2l: ")
    assert "Traceback" not in "".join(said)
    assert any(cure in said[-1] for cure in ("choose another run_dir", "shorten it")), said
