from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.dataset
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from s2l_ray.data.discovery import find_files
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import MissingFile, RetryPolicy, StorageError
from s2l_ray.text.redact import strip_credentials
from tests.support.paths import ROOT


@pytest.fixture(params=["local", "s3", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage.open(tmp_path / "a run")
    if request.param == "s3":
        return Storage.open(request.getfixturevalue("s3_uri"))
    return Storage.open(f"memory://{tmp_path.name}/run")


class FlakyFileSystem(MemoryFileSystem):
    """A real fsspec file system whose next `failures` openings fail."""

    protocol = "flaky"
    cachable = False
    failures = 0
    error: OSError = OSError("connection reset")

    def _open(self, *args, **kwargs):
        if FlakyFileSystem.failures > 0:
            FlakyFileSystem.failures -= 1
            raise FlakyFileSystem.error
        return super()._open(*args, **kwargs)


fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)


@pytest.fixture
def flaky() -> tuple[Storage, list[float]]:
    waits: list[float] = []
    FlakyFileSystem.failures, FlakyFileSystem.error = 0, OSError("connection reset")
    policy = RetryPolicy(tries=4, first_wait_s=0.5, jitter=0, sleep=waits.append)
    storage = Storage.open("flaky://here/run", retry=policy)
    storage.write_bytes("file", b"content")
    return storage, waits


def test_bytes_json_and_tables_come_back_as_written(storage: Storage):
    storage.write_bytes("deep/er/raw.bin", b"\x00\x01")
    storage.write_json("settings.json", {"ä": [1, 2.5, None]})
    table = pa.table({"id": ["a", "b"], "loss_nats": [0.5, 1.5]})
    storage.write_table("parts/0.parquet", table, compression="zstd")

    assert storage.read_bytes("deep/er/raw.bin") == b"\x00\x01"
    assert storage.read_json("settings.json") == {"ä": [1, 2.5, None]}
    assert storage.read_table("parts/0.parquet").equals(table)
    assert storage.read_table("parts/0.parquet", columns=["id"]).column_names == ["id"]
    with storage.open_input("deep/er/raw.bin") as file:
        file.seek(1)
        assert file.read() == b"\x01"


def test_many_tables_come_in_order_and_no_more_ahead_than_needed(storage: Storage):
    names = [f"part-{i:03d}" for i in range(40)]
    for i, name in enumerate(names[:-1]):
        storage.write_table(name, pa.table({"x": [i], "y": [-i]}))
    asked = []

    def telling() -> Iterator[str]:
        for name in names:
            asked.append(name)
            yield name

    tables = storage.read_tables(telling(), ["x"])
    assert not asked
    assert next(tables).to_pylist() == [{"x": 0}]
    assert len(asked) < 30
    got = [0]
    with pytest.raises(MissingFile, match="part-039"):
        got.extend(table["x"][0].as_py() for table in tables)
    assert got == list(range(39))
    assert list(storage.read_tables([])) == []


def test_write_replaces_and_empty_files_exist(storage: Storage):
    storage.write_bytes("file", b"long old content")
    storage.write_bytes("file", b"new")
    with storage.atomic_output("empty"):
        pass
    assert storage.read_bytes("file") == b"new"
    assert storage.exists("empty")
    assert storage.read_bytes("empty") == b""


def test_a_failed_write_leaves_the_old_file_and_nothing_else(storage: Storage):
    storage.write_bytes("file", b"old")

    def write_half(name: str, error: BaseException) -> None:
        with storage.atomic_output(name) as stream:
            stream.write(b"half of the new" * 1000)
            stream.flush()
            raise error

    with pytest.raises(RuntimeError, match="half way"):
        write_half("file", RuntimeError("half way"))
    with pytest.raises(KeyboardInterrupt):
        write_half("other", KeyboardInterrupt())
    assert storage.read_bytes("file") == b"old"
    assert not storage.exists("other")
    assert [e.name for e in storage.list()] == ["file"]


def test_atomic_output_takes_wrappers_that_close_it(storage: Storage):
    with storage.atomic_output("lines.jsonl") as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8")
        text.write("é\n")
        text.close()
    assert storage.read_bytes("lines.jsonl") == "é\n".encode()


def test_list_is_sorted_relative_and_usable(storage: Storage):
    assert storage.list() == []
    assert storage.list("missing") == []
    for name in ("b.txt", "a.txt", "sub/c.txt"):
        storage.write_bytes(name, name.encode())
    assert [(entry.name, entry.size) for entry in storage.list()] == [("a.txt", 5), ("b.txt", 5)]
    assert [entry.name for entry in storage.list(recursive=True)] == ["a.txt", "b.txt", "sub/c.txt"]
    assert [entry.name for entry in storage.list("sub")] == ["sub/c.txt"]
    assert [entry.name for entry in storage.sub("sub").list()] == ["c.txt"]
    for entry in storage.list(recursive=True):
        assert storage.read_bytes(entry.name) == entry.name.encode()


def test_delete_is_idempotent(storage: Storage):
    for name in ("keep", "folder/a", "folder/b/c"):
        storage.write_bytes(name, b"1")
    storage.delete("folder/a")
    storage.delete("folder/a")
    storage.delete_dir("folder")
    storage.delete_dir("folder")
    assert [entry.name for entry in storage.list(recursive=True)] == ["keep"]
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("folder/a")


def test_sub_display_and_pickle_lead_to_the_same_folder(storage: Storage):
    deep = storage.sub("trajectories", "snapshot=3")
    deep.write_bytes("part", b"x")
    assert storage.read_bytes("trajectories/snapshot=3/part") == b"x"
    assert Storage.open(deep.uri).read_bytes("part") == b"x"
    revived = pickle.loads(pickle.dumps(deep))
    assert (revived.uri, revived.path, revived) == (deep.uri, deep.path, deep)
    assert revived.read_bytes("part") == b"x"


@pytest.mark.parametrize("rel", ["../outside", "/etc/passwd", "a/../../b"])
def test_nothing_outside_the_folder_is_reached(tmp_path: Path, rel: str):
    with pytest.raises(ValueError, match="outside"):
        Storage.open(tmp_path).write_bytes(rel, b"")
    with pytest.raises(ValueError, match="outside"):
        Storage.open(tmp_path).sub(rel)


def test_roots_are_never_deleted(s3_server: str):
    bucket = Storage.open(f"s3://s2l-test?endpoint_override={s3_server}&scheme=http&region=us-east-1")
    with pytest.raises(ValueError, match="Refusing"):
        bucket.delete_dir()
    with pytest.raises(ValueError, match="Refusing"):
        Storage.open("/").delete_dir()


def test_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Storage.open("runs/a").path == str(tmp_path / "runs/a")
    assert Storage.open("~/b").local_path("c") == tmp_path / "b/c"
    assert Storage.open(f"file://{tmp_path}/with%20space").path == f"{tmp_path}/with space"
    with pytest.raises(ValueError, match="three slashes"):
        Storage.open("file://runs/a")
    with pytest.raises(ValueError, match="not on a local disk"):
        Storage.open("memory://x/y").local_path()


def test_unknown_schemes_and_unparsable_uris_are_refused():
    with pytest.raises(ValueError, match="fsspec package"):
        Storage.open("nosuch://bucket/run")
    with pytest.raises(ValueError, match="%20"):
        Storage.open("s3://bucket/my run?region=us-east-1")


def test_a_killed_writer_leaves_no_data(tmp_path: Path):
    script = (
        "import sys, time; from s2l_ray.storage.folder import Storage\n"
        "with Storage.open(sys.argv[1]).atomic_output('parts/0.parquet') as out:\n"
        "    out.write(b'torn' * 5000); out.flush(); print('writing', flush=True); time.sleep(60)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    writer = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, env=env)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()

    storage = Storage.open(tmp_path)
    assert os.listdir(tmp_path / "parts") != []  # the temp file is there …
    assert storage.list("parts") == storage.list(recursive=True) == []  # … and is no data
    storage.write_table("parts/1.parquet", pa.table({"a": [1]}))
    assert pyarrow.dataset.dataset(tmp_path / "parts", format="parquet").count_rows() == 1
    assert [entry.name for entry in storage.list("parts")] == ["parts/1.parquet"]


def test_transient_errors_are_retried_with_growing_pauses(flaky, caplog: pytest.LogCaptureFixture):
    storage, waits = flaky
    FlakyFileSystem.failures = 3
    assert storage.read_bytes("file") == b"content"
    assert waits == [0.5, 1.0, 2.0]
    assert len(caplog.records) == 3
    FlakyFileSystem.failures = 2
    storage.write_bytes("file", b"changed")
    assert storage.read_bytes("file") == b"changed"
    assert [e.name for e in storage.list()] == ["file"]


def test_after_the_last_try_the_error_says_what_and_where(flaky):
    storage, waits = flaky
    FlakyFileSystem.failures = 100
    with pytest.raises(StorageError, match=r"failed 4 times while reading flaky://here/run/file: .*reset.*Check"):
        storage.read_bytes("file")
    assert len(waits) == 3


@pytest.mark.parametrize(
    "error", [FileNotFoundError("gone"), PermissionError("no"), OSError("AWS Error ACCESS_DENIED")]
)
def test_errors_that_waiting_does_not_cure_are_raised_at_once(flaky, error: OSError):
    storage, waits = flaky
    FlakyFileSystem.failures, FlakyFileSystem.error = 1, error
    with pytest.raises(OSError, match=str(error)):
        storage.read_bytes("file")
    assert waits == []


def test_missing_bucket_is_named_without_retrying(s3_server: str):
    def never(_: float) -> None:
        pytest.fail("waited for a bucket that will not come")

    uri = f"s3://no-such-bucket/run?endpoint_override={s3_server}&scheme=http&region=us-east-1"
    with pytest.raises(StorageError, match="bucket does not exist"):
        Storage.open(uri, RetryPolicy(sleep=never)).write_bytes("x", b"1")


def test_credentials_in_the_uri_work_and_are_never_shown(s3_uri: str, monkeypatch: pytest.MonkeyPatch):
    storage = Storage.open(f"{s3_uri}&access_key=AKIDEXAMPLE&secret_key=ver%2Fysecret")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    storage.write_bytes("x", b"1")
    revived = pickle.loads(pickle.dumps(storage))
    assert revived.read_bytes("x") == b"1"
    for shown in (storage.uri, repr(storage), storage.sub("a").uri):
        assert "AKID" not in shown
        assert "ysecret" not in shown
    assert "endpoint_override=127.0.0.1:" in storage.uri
    assert strip_credentials("s3://key:secret@bucket/p?token=x&region=r") == "s3://bucket/p?region=r"
    assert strip_credentials("abfs://container@account/p") == "abfs://container@account/p"


def test_a_files_uri_is_one_that_opens(storage: Storage) -> None:
    """Options (endpoint, region) follow the path: what is appended to them is no path any more."""
    storage.sub("stage").write_bytes("part.txt", b"content")
    assert storage.uri_of("stage") == storage.sub("stage").uri
    path, question, options = storage.uri_of("stage/part.txt").partition("?")
    folder, _, name = path.rpartition("/")
    assert Storage.open(f"{folder}{question}{options}").read_bytes(name) == b"content"


def test_a_patterns_uri_finds_the_files(storage: Storage) -> None:
    for name in ("subset/s2l-0.1-a b/x.jsonl", "subset/s2l-0.3-b/x.jsonl", "subset/random-0.1-c/x.jsonl"):
        storage.write_bytes(name, b"{}\n")
    pattern = storage.pattern_of("subset/s2l-*/x.jsonl")
    found = [uri for uri, _ in find_files(pattern, "corpus.paths", None, print)]
    assert found == [storage.uri_of("subset/s2l-0.1-a b/x.jsonl"), storage.uri_of("subset/s2l-0.3-b/x.jsonl")]


def test_a_folder_contains_those_below_it_alone(storage: Storage) -> None:
    assert storage.contains(storage.sub("stage"))
    assert storage.contains(Storage.open(storage.uri).sub("stage", "part"))
    assert not storage.contains(storage)
    assert not storage.sub("stage").contains(storage.sub("stage2"))
    assert not storage.sub("stage").contains(storage)
