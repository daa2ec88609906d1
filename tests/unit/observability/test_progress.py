from __future__ import annotations

import io
import itertools
import json
import math
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from s2l_ray.observability.metrics_log import MetricsLog, read_metrics
from s2l_ray.observability.progress import Progress
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import StorageError
from s2l_ray.text.formats import format_count, format_duration, format_rate, format_value
from tests.support.paths import ROOT


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


# Progress.


def test_plain_lines_are_few_and_whole():
    stream, clock = io.StringIO(), Clock()
    with Progress(stream, plain_every_s=10, clock=clock).stage("proxy", 5000, "steps") as stage:
        for step in range(1, 1201):
            clock.now_s += 1 / 80
            stage.update(step, loss=2.3117)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "[proxy] 800/5,000 steps  16%  80 steps/s  53 s left  loss 2.31",
        "[proxy] 1,200/5,000 steps  24%  80 steps/s  done in 15 s  loss 2.31",
    ]


def test_a_finished_stage_always_has_a_last_line():
    stream = io.StringIO()
    progress = Progress(stream, plain_every_s=1000)
    with progress.stage("corpus", 3, "files"):
        pass

    def fail() -> None:
        with progress.stage("proxy", None, "steps") as stage:
            stage.update(advance=7, note="x")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    first, second = stream.getvalue().splitlines()
    assert first.startswith("[corpus] 0/3 files  0%  done in")
    assert second.startswith("[proxy] 7 steps")
    assert "stopped in" in second
    assert second.endswith("note x")


def test_remaining_time_follows_the_recent_rate_and_not_what_was_resumed():
    stream, clock = io.StringIO(), Clock()
    with Progress(stream, plain_every_s=0, clock=clock).stage("score", 2000, "examples", done=1000) as stage:
        for _ in range(60):  # a slow minute: warming up
            clock.now_s += 1
            stage.update(advance=1)
        for _ in range(60):
            clock.now_s += 1
            stage.update(advance=10)
    assert "1,660/2,000 examples  83%  10 examples/s  34 s left" in stream.getvalue().splitlines()[-2]
    assert "5.5 examples/s" in stream.getvalue().splitlines()[-1]  # the mean of what this process did


def test_say_and_total_correction():
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, plain_every_s=0, clock=clock)
    progress.say("corpus: unchanged, skipped [3 s]")
    with progress.stage("corpus", None, "rows") as stage:
        stage.update(5, total=10)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "corpus: unchanged, skipped [3 s]"
    assert lines[-1].startswith("[corpus] 5/10 rows  50%")


class Closing(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


@pytest.mark.parametrize("interactive", [False, True])
@pytest.mark.parametrize("kind", ["closed", "broken"])
def test_a_stream_nobody_reads_ends_nothing(interactive: bool, kind: str):
    stream = Closing() if kind == "broken" else io.StringIO()
    progress = Progress(stream, interactive=interactive, plain_every_s=0)
    if kind == "closed":
        stream.close()
    progress.say("hello")
    with progress.stage("proxy", 10, "steps") as stage:
        for step in range(10):
            stage.update(step)


def test_a_stream_without_unicode_still_shows_the_line():
    raw = io.BytesIO()
    progress = Progress(io.TextIOWrapper(raw, encoding="ascii"))
    progress.say("naïve → done")
    assert raw.getvalue() == b"na?ve ? done\n"


@pytest.mark.thorough
def test_a_terminal_gets_a_bar_and_lines_above_it():
    """A real terminal (a pty): Progress finds out by itself."""
    leader, follower = pty.openpty()
    script = (
        "import time; from s2l_ray.observability.progress import Progress\n"
        "p = Progress()\n"
        "assert p.interactive\n"
        "with p.stage('proxy', 100, 'steps') as s:\n"
        "    for i in range(1, 101):\n"
        "        s.update(i, loss=1.5); time.sleep(.005)\n"
        "        if i == 50: p.say('half [way] there')\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "140"}
    child = subprocess.Popen([sys.executable, "-c", script], stdout=follower, env=env)
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the child closed its end
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    assert child.wait() == 0
    text = shown.decode()
    assert "half [way] there" in text
    assert "━" in text
    assert "100/100 steps  100%" in text.split("half [way] there")[1]
    assert "loss 1.5" in text


def test_updates_from_many_threads_are_counted_once():
    stream = io.StringIO()
    with Progress(stream).stage("score", 4000, "examples") as stage:

        def work() -> None:
            for _ in range(1000):
                stage.update(advance=1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "4,000/4,000 examples  100%" in stream.getvalue()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (950, "950"),
        (1000, "1k"),
        (17_877, "17.9k"),
        (999_999, "1M"),
        (1_200_000, "1.2M"),
        (3.4e9, "3.4B"),
        (0.5, "0.5"),
    ],
)
def test_format_count(count: float, text: str):
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.42, "0.4 s"), (9.97, "10 s"), (47, "47 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"), (7620, "2 h 07 min"), (86_399, "1 d 00 h"), (97_200, "1 d 03 h"), (math.inf, "unknown"),
        (-1, "0 s"),
    ],
)  # fmt: skip
def test_format_duration(seconds: float, text: str):
    assert format_duration(seconds) == text


def test_format_rate_and_value():
    assert format_rate(81.2, "steps") == "81 steps/s"
    assert format_rate(1.25, "steps") == "1.2 steps/s"
    assert format_rate(1_234_567, "tokens") == "1.2M tokens/s"
    assert format_rate(1 / 12, "steps") == "12 s/step"
    assert format_rate(0, "steps") == "0 steps/s"
    assert [format_value(value) for value in (2.3117, 12_345, "x", True)] == ["2.31", "12,345", "x", "True"]


# MetricsLog.


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage.open(tmp_path / "run" if request.param == "local" else request.getfixturevalue("s3_uri"))


def test_lines_are_added_and_kept_on_reopening(storage: Storage):
    before = datetime.now(timezone.utc)
    with MetricsLog(storage) as log:
        log.log(
            "proxy", "step", loss_nats=np.float32(1.5), step=np.int64(3), bad=math.nan, hub_token="a=b", half="\ud800"
        )
    with MetricsLog(storage) as log:
        log.log("proxy", "end", shape=(1, 2), text="é")
    assert read_metrics(storage.sub("elsewhere")) == []
    first, second = (
        json.loads(line, parse_constant=pytest.fail) for line in storage.read_bytes("metrics.jsonl").splitlines()
    )
    assert abs((datetime.fromisoformat(first.pop("time")) - before).total_seconds()) < 5
    assert first == {
        "stage": "proxy",
        "event": "step",
        "loss_nats": 1.5,
        "step": 3,
        "bad": "NaN",
        "hub_token": "a=b",
        "half": "\ud800",
    }
    assert second["shape"] == [1, 2]
    assert second["text"] == "é"


def test_a_torn_last_line_spoils_only_itself(storage: Storage):
    storage.write_bytes("metrics.jsonl", b'{"stage": "a"}\n{"stage": "b", "los')
    with MetricsLog(storage) as log:
        log.log("c", "start")
    assert [record["stage"] for record in read_metrics(storage)] == ["a", "c"]
    assert storage.read_bytes("metrics.jsonl").count(b"\n") == 3


def test_local_lines_survive_a_kill(tmp_path: Path):
    script = (
        "import os, signal, sys; from s2l_ray.observability.metrics_log import MetricsLog\n"
        "from s2l_ray.storage.folder import Storage\n"
        "log = MetricsLog(Storage.open(sys.argv[1]))\n"
        "for i in range(3): log.log('proxy', 'step', step=i)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    assert [record["step"] for record in read_metrics(Storage.open(tmp_path))] == [0, 1, 2]


@pytest.mark.thorough
def test_object_stores_are_rewritten_seldom_but_soon(s3_uri: str, monkeypatch: pytest.MonkeyPatch):
    storage = Storage.open(s3_uri)
    writes: list[float] = []
    write_bytes = Storage.write_bytes

    def counting(self: Storage, rel: str, data: bytes) -> None:
        writes.append(time.monotonic())
        write_bytes(self, rel, data)

    monkeypatch.setattr(Storage, "write_bytes", counting)
    log = MetricsLog(storage, flush_every_s=0.5)
    for step in range(200):
        log.log("proxy", "step", step=step)
    assert len(writes) <= 2
    until_s = time.monotonic() + 10
    while len(read_metrics(storage)) < 200 and time.monotonic() < until_s:
        time.sleep(0.05)
    assert [record["step"] for record in read_metrics(storage)] == list(range(200))  # nobody called flush or close
    assert len(writes) <= 4
    assert all(later - earlier >= 0.5 for earlier, later in itertools.pairwise(writes))
    log.close()


def test_a_failing_store_costs_a_warning_and_no_line(s3_uri: str, monkeypatch, caplog: pytest.LogCaptureFixture):
    storage = Storage.open(s3_uri)
    write_bytes = Storage.write_bytes

    def failing(*_: object) -> None:
        raise StorageError("away")

    log = MetricsLog(storage, flush_every_s=0)
    monkeypatch.setattr(Storage, "write_bytes", failing)
    log.log("proxy", "first")
    log.log("proxy", "second")
    log.flush()
    assert len(caplog.records) == 1
    monkeypatch.setattr(Storage, "write_bytes", write_bytes)
    log.close()
    assert [record["event"] for record in read_metrics(storage)] == ["first", "second"]
