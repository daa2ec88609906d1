"""An S3 that fails: short outages are ridden out, long ones end clearly, and the same command completes afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import s2l_ray
from s2l_ray.artifacts.run import Run
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import StorageError
from s2l_ray.testing.tiny import tiny_run_config
from tests.support.faulty_proxy import FaultyProxy, Mode


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server) as proxy:
        yield proxy


def uri(address: str, folder: str) -> str:
    return f"s3://s2l-test/{folder}?endpoint_override={address}&scheme=http&region=us-east-1"


@pytest.mark.parametrize("mode", ["reset", "busy", "refuse"])
def test_an_outage_of_a_second_is_ridden_out(proxy: FaultyProxy, mode: Mode):
    storage = Storage.open(uri(proxy.address, f"short-{uuid.uuid4().hex[:8]}"))
    storage.write_bytes("before", b"1")
    proxy.set(mode)
    back = threading.Timer(1.0, proxy.set, ["pass"])
    back.start()
    storage.write_bytes("during", b"2")
    back.join()
    proxy.set(mode)
    back = threading.Timer(1.0, proxy.set, ["pass"])
    back.start()
    assert storage.read_bytes("before") == b"1"
    back.join()
    assert [entry.name for entry in storage.list()] == ["before", "during"]


@pytest.mark.thorough
def test_an_outage_that_does_not_end_is_an_error_that_names_what_was_to_be_done(proxy: FaultyProxy):
    storage = Storage.open(uri(proxy.address, f"long-{uuid.uuid4().hex[:8]}"))
    proxy.set("reset")
    with pytest.raises(StorageError, match=r"failed 4 times while writing s3://s2l-test/long-\w+/ids\?.*same command"):
        storage.write_bytes("ids", b"1")
    assert proxy.faults >= 4
    proxy.set("pass")
    assert not storage.list()


def wait_for(storage: Storage, folder: str, seconds: float, process: subprocess.Popen[str]) -> None:
    """Until some file is in the folder, seen past the proxy."""
    deadline = time.monotonic() + seconds
    while not any(folder in entry.name for entry in storage.list(recursive=True)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run does not come so far"
        time.sleep(0.1)


@pytest.mark.slow  # four minutes, most of it waiting
@pytest.mark.faults
def test_a_run_survives_a_short_outage_and_resumes_after_a_long_one(
    finished: Run, proxy: FaultyProxy, s3_server: str, tmp_path: Path
):
    folder = f"run-{uuid.uuid4().hex[:8]}"
    tree = tiny_run_config(tmp_path, resources__max_failures=1) | {"run_dir": uri(proxy.address, folder)}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tree))
    command = [sys.executable, "-m", "s2l_ray.cli", "run", str(config)]
    behind = Storage.open(uri(s3_server, folder))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        wait_for(behind, "tokens/", 240, process)
        proxy.set("reset")
        time.sleep(1)
        proxy.set("pass")
        wait_for(behind, "snapshots/snapshot-001", 240, process)
        proxy.set("refuse")
        _, err = process.communicate(timeout=400)
    finally:
        process.kill()
    said = [line for line in err.splitlines() if line.startswith("s2l: ")]
    assert process.returncode == 1, err
    assert len(said) == 1, err
    print(said[0])
    assert "storage failed" in said[0].lower()
    assert "same command" in said[0]
    assert not any(name.name.startswith("clusters/") for name in behind.list(recursive=True))
    proxy.set("pass")
    tree["resources"]["max_failures"] = 3
    mine = s2l_ray.run(tree)
    assert mine.stages["tokens"].reused
    for name, stage in finished.stages.items():
        assert mine.stages[name].manifest.content_fingerprint == stage.manifest.content_fingerprint, name
