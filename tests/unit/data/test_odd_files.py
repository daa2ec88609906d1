"""What lies in corpus folders besides data: run folders, links, pipes, folders named like files, names, rights."""

from __future__ import annotations

import json
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2l_ray.config import load_config
from s2l_ray.data.sources import plan_files, read_unit
from s2l_ray.data.units import SourceError
from s2l_ray.errors import MAX_MESSAGE
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import tiny_run_config
from s2l_ray.workflow.preflight import PreflightError, preflight

LINE = b'{"prompt": "p", "completion": "c"}\n'


def write(path: Path, data: bytes = LINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def make_run(folder: Path, mark: str = "run.json") -> Path:
    """A folder as a run leaves it."""
    write(folder / "config.yaml", b"name: x\n")
    write(folder / mark, b"{}")
    for name in ("metrics.jsonl", "subset/s2l-0.1-ab/subset.jsonl", "corpus/ab/examples/part-000000.parquet"):
        write(folder / name)
    return folder


def found(*patterns: object, run: object = None) -> tuple[list[str], list[str]]:
    said: list[str] = []
    units = plan_files([str(p) for p in patterns], 1 << 20, run_uri=None if run is None else str(run), say=said.append)
    return [u.uri for u in units], said


def refused(*patterns: object, run: object = None) -> str:
    with pytest.raises(SourceError) as caught:
        found(*patterns, run=run)
    assert len(str(caught.value)) <= MAX_MESSAGE
    return str(caught.value)


# --- run folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["run.json", "metrics.jsonl", "locks/abc"])
@pytest.mark.parametrize("pattern", ["", "**/*.jsonl", "*/*.jsonl", "**", "*.jsonl", "[dr]*/**/*.jsonl"])
def test_no_folder_or_glob_reaches_into_a_run(tmp_path, mark, pattern):
    write(tmp_path / "data/a.jsonl")
    write(tmp_path / "b.jsonl")
    own, other = make_run(tmp_path / "runs/own", mark), make_run(tmp_path / "runs/2024/other", mark)
    make_run(other / "subset/nested")
    uris, said = found(tmp_path / pattern, run=own)
    assert set(uris) <= {str(tmp_path / "data/a.jsonl"), str(tmp_path / "b.jsonl")}
    if "**" in pattern or not pattern:
        assert str(own) in said[0]
        assert str(other) in said[0]
        assert "excluded" in said[0]
    assert "matches only files in a run folder" in refused(tmp_path / "runs*/**/*.jsonl", run=own)


def test_a_folder_with_a_configuration_of_its_own_is_no_run(tmp_path):
    write(tmp_path / "config.yaml")
    write(tmp_path / "a.jsonl")
    read, notes = found(tmp_path)
    assert read == [str(tmp_path / "a.jsonl")]
    [note] = notes
    assert "contains files that are not read: config.yaml" in note


def test_a_single_file_of_another_run_may_be_named_but_not_of_the_own(tmp_path):
    run = make_run(tmp_path / "run")
    subset = run / "subset/s2l-0.1-ab/subset.jsonl"
    assert found(subset, run=tmp_path / "new")[0] == [str(subset)]
    (tmp_path / "link.jsonl").symlink_to(run / "metrics.jsonl")
    (tmp_path / "linked").symlink_to(run)
    for path in (subset, run / "metrics.jsonl", tmp_path / "link.jsonl", tmp_path / "linked/metrics.jsonl"):
        assert "run folder" in refused(path, run=run)
        assert "run folder" in refused(f"file://{path}", run=run)
    for path in (run, subset.parent, run / "*.jsonl", run / "subset/*/subset.jsonl", tmp_path / "linked"):
        assert "a single file of another run in full" in refused(path, run=tmp_path / "new")


def test_links_into_a_run_are_excluded_and_said(tmp_path):
    run = make_run(tmp_path / "elsewhere/run")
    write(tmp_path / "data/a.jsonl")
    (tmp_path / "data/folder").symlink_to(run / "subset")
    (tmp_path / "data/file.jsonl").symlink_to(run / "metrics.jsonl")
    for pattern in ("data", "data/**/*.jsonl"):
        uris, said = found(tmp_path / pattern)
        assert uris == [str(tmp_path / "data/a.jsonl")]
        assert str(run) in said[0]


def test_held_out_files_in_the_run_are_refused_before_anything_starts(tmp_path):
    run = make_run(tmp_path / "run")
    tree = tiny_run_config(run)
    tree["heldout"] = {"files": {"test": [str(run / "metrics.jsonl")]}}
    shared = ("from_config", "train_tokenizer", "max_length")
    tree["target"] = {name: tree["proxy"][name] for name in shared}
    with pytest.raises(SourceError, match=r"heldout\.files\.test: .*run folder"):
        preflight(load_config(tree))


@pytest.mark.parametrize("inside", ["corpus/ab", "new", "subset/s2l-0.1-ab/deep/er", "linked/new"])
def test_a_run_inside_another_run_is_refused(tmp_path, inside):
    run = make_run(tmp_path / "run")
    (tmp_path / "linked").symlink_to(run)
    folder = tmp_path / inside if inside.startswith("linked") else run / inside
    with pytest.raises(PreflightError, match="inside another run's folder"):
        preflight(load_config(tiny_run_config(folder)))


@pytest.mark.thorough
def test_runs_on_s3(s3_uri):
    folder, query = s3_uri.split("?")
    storage = Storage.open(s3_uri)
    for name in ("data/a.jsonl", "runs/x/config.yaml", "runs/x/locks/me", "runs/x/metrics.jsonl", "runs/x/s/b.jsonl"):
        storage.write_bytes(name, LINE)
    for pattern in ("", "/**/*.jsonl", "/*/**/*.jsonl"):
        uris, said = found(f"{folder}{pattern}?{query}")
        assert [u.split("?")[0] for u in uris] == [f"{folder}/data/a.jsonl"]
        assert "/runs/x" in said[0]
    own = f"{folder}/runs/x?{query}"
    assert "run folder" in refused(f"{folder}/runs/x/metrics.jsonl?{query}", run=own)
    assert "run folder" in refused(f"{folder}/runs/x/s?{query}")
    assert found(f"{folder}/runs/x/s/b.jsonl?{query}")[1] == []
    with pytest.raises(PreflightError, match="inside another run's folder"):
        preflight(load_config(tiny_run_config(Path("unused")) | {"run_dir": f"{folder}/runs/x/corpus/new?{query}"}))


# --- what is no file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["x.jsonl", ".", "*", "**/*.jsonl"])
@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "dangling", "loop"])
def test_what_cannot_be_read_like_a_file_is_named_and_nothing_hangs(tmp_path, monkeypatch, kind, pattern):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl")
    path = tmp_path / "x.jsonl"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("x.jsonl")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(tmp_path / ("x.jsonl" if kind == "loop" else "nowhere"))
    said = refused(pattern)
    assert "x.jsonl" in said
    words = {"fifo": "a named pipe", "socket": "a socket", "device": "a device", "dangling": "does not exist"}
    assert words.get(kind, "symbolic links") in said


def test_folders_named_like_files_are_read_as_folders(tmp_path):
    write(tmp_path / "set.jsonl/part-0.jsonl")
    for pattern in ("set.jsonl", "*.jsonl", "**/*.jsonl", ""):
        assert found(tmp_path / pattern)[0] == [str(tmp_path / "set.jsonl/part-0.jsonl")]


def test_links_back_end_and_links_to_folders_are_followed(tmp_path):
    write(tmp_path / "data/sub/a.jsonl")
    write(tmp_path / "more/b.jsonl")
    (tmp_path / "data/sub/back").symlink_to(tmp_path / "data")
    (tmp_path / "data/more").symlink_to(tmp_path / "more")
    for pattern in ("data", "data/**/*.jsonl"):
        assert found(tmp_path / pattern)[0] == [str(tmp_path / "data/more/b.jsonl"), str(tmp_path / "data/sub/a.jsonl")]


def test_names_that_are_no_utf8(tmp_path):
    folder = os.fsencode(tmp_path)
    with open(folder + b"/caf\xe9.jsonl", "wb") as file:
        file.write(LINE)
    for pattern in ("", "*.jsonl", os.fsdecode(b"caf\xe9.jsonl")):
        assert re.search(r"is not UTF-8.*; rename it", refused(tmp_path / pattern))
    os.remove(folder + b"/caf\xe9.jsonl")
    os.mkdir(folder + b"/\xff")
    write(tmp_path / "a.jsonl")
    assert len(found(tmp_path)[0]) == 1, "a folder of such a name that holds no data is nobody's concern"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "empty path"),
        ("  ", "empty path"),
        ("x" * 5000 + ".jsonl", "too long"),
        ("*/" * 3 + "x" * 5000, "too long"),
        ("a\0b.jsonl", "cannot be looked up"),
        ("s3:///a.jsonl", "cannot be looked up"),
        ("nosuch://bucket/a.jsonl", "cannot be looked up"),
        ("file://host/a.jsonl", "cannot be looked up"),
        ("http://[bad/a.jsonl", "cannot be looked up"),
        pytest.param("s3://", "cannot be looked up", marks=pytest.mark.thorough),  # seconds of asking for a region
    ],
)
def test_paths_that_are_none(path, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refused(path)


# --- rights ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_somebody() -> Iterator[Path]:
    """A folder, as a user whom rights apply to: the tests may run as root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        write(folder / "open/a.jsonl")
        (folder / "open").chmod(0o755)
        plan_files([str(folder)], 1000)  # whatever is imported late is imported now
        is_root = os.geteuid() == 0
        yield folder
        if is_root:
            os.seteuid(0)


def become_somebody() -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)


@pytest.mark.parametrize("pattern", ["", "**/*.jsonl", "*/*.jsonl", "closed/b.jsonl"])
def test_a_folder_that_cannot_be_listed_is_not_passed_over(as_somebody, pattern):
    write(as_somebody / "closed/b.jsonl")
    (as_somebody / "closed").chmod(0)
    become_somebody()
    said = refused(as_somebody / pattern)
    assert "Permission denied" in said
    assert "closed" in said


@pytest.mark.parametrize("pattern", ["open", "open/*.jsonl", "open/b.jsonl"])
def test_a_file_that_may_not_be_read_is_named_before_anything_starts(as_somebody, pattern):
    write(as_somebody / "open/b.jsonl").chmod(0)
    become_somebody()
    said = refused(as_somebody / pattern)
    assert "Permission denied" in said
    assert "b.jsonl" in said


def test_what_even_root_cannot_read(tmp_path):
    if not os.access("/sys/bus/pci/rescan", os.W_OK):
        pytest.skip("no file here that can be opened and not read")
    (tmp_path / "a.jsonl").symlink_to("/sys/bus/pci/rescan")
    with pytest.raises(SourceError, match=r"a\.jsonl"):
        [list(read_unit(unit)) for unit in plan_files([str(tmp_path / "a.jsonl")], 1 << 20)]


def test_a_file_that_is_gone_by_the_time_it_is_read(tmp_path):
    [unit] = plan_files([str(write(tmp_path / "a.jsonl", json.dumps({"a": 1}).encode()))], 1 << 20)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(SourceError, match=r"a\.jsonl has disappeared since this run was planned"):
        list(read_unit(unit))
