"""`s2l submit` follows a real job through a connection that breaks, hangs, and comes back."""

from __future__ import annotations

import re
import shlex
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from s2l_ray.submission import job as following
from s2l_ray.submission.job import JobClient, JobError
from s2l_ray.testing.ray_head import RayHead
from tests.support.faulty_proxy import FaultyProxy, Mode

LINES = 30
COUNTING = "import time\nfor i in range({n}):\n    print('line', i, flush=True); time.sleep(0.5)\n{end}"


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with RayHead({}, num_cpus=2) as head:
        yield head


@pytest.fixture
def proxy(head: RayHead, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setattr(following, "_SILENCE_S", 3.0)
    monkeypatch.setattr(following, "_LONGEST_SILENCE_S", 6.0)
    monkeypatch.setattr(following, "_CONNECT_S", 5.0)
    monkeypatch.setattr(following, "_ANSWER_S", 30.0)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with FaultyProxy(head.address.removeprefix("http://")) as proxy:
        yield proxy


def start(head: RayHead, n: int = LINES, end: str = "") -> str:
    entrypoint = f"{shlex.quote(sys.executable)} -c {shlex.quote(COUNTING.format(n=n, end=end))}"
    job: str = JobClient(head.address).client.submit_job(entrypoint=entrypoint)
    return job


def lines(text: str) -> list[str]:
    return re.findall(r"line \d+", text)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "mode", ["reset", *(pytest.param(m, marks=pytest.mark.slow) for m in ("refuse", "busy", "hang"))]
)
def test_an_outage_is_told_once_and_no_line_is_lost(
    head: RayHead, proxy: FaultyProxy, mode: Mode, capsys: pytest.CaptureFixture[str]
) -> None:
    client = JobClient(f"http://{proxy.address}")
    job = start(head)

    def disturb() -> None:
        while client.printed < 40:
            time.sleep(0.05)
        proxy.set(mode)
        time.sleep(8)
        proxy.set("pass")

    disturber = threading.Thread(target=disturb, daemon=True)
    disturber.start()
    assert client.follow(job) == 0
    disturber.join()
    shown = capsys.readouterr()
    assert lines(shown.out) == [f"line {i}" for i in range(LINES)]
    assert shown.err.count("is unreachable") <= 1
    if mode != "hang":  # the log alone may have hung: asked for the job, the cluster answers when all is well again
        assert shown.err.count("is unreachable") == shown.err.count("is reachable again") == 1


def test_what_does_not_come_back_ends_with_what_to_do(
    head: RayHead, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(following, "_OUT_OF_REACH_S", 4.0)
    client = JobClient(f"http://{proxy.address}")
    job = start(head)
    threading.Timer(3, proxy.set, ["reset"]).start()
    with pytest.raises(JobError, match=f"unreachable for 4 s .*ray job status {job} --address"):
        client.follow(job)
    assert capsys.readouterr().err.count("retrying for 4 s") == 1


@pytest.mark.thorough
def test_a_connection_that_dies_while_the_job_is_sent_sends_it_once(head: RayHead, proxy: FaultyProxy) -> None:
    from s2l_ray.submission.prepare import Submission

    client = JobClient(f"http://{proxy.address}")
    proxy.set("reset")
    threading.Timer(3, proxy.set, ["pass"]).start()
    job = client.submit(Submission(f"{shlex.quote(sys.executable)} -c pass", {}, "sent"))
    assert [info.submission_id for info in client.client.list_jobs()].count(job) == 1
    assert client.follow(job) == 0


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("import os; os.kill(os.getpid(), 9)", 137),
        pytest.param("raise SystemExit(2)", 2, marks=pytest.mark.thorough),
        pytest.param("", 0, marks=pytest.mark.thorough),
    ],
)
def test_the_exit_code_is_the_jobs(head: RayHead, end: str, code: int) -> None:
    assert JobClient(head.address).follow(start(head, n=1, end=end)) == code


@pytest.mark.thorough
def test_a_stopped_job_and_an_unknown_one(head: RayHead) -> None:
    client = JobClient(head.address)
    job = start(head, n=1000)

    def stop() -> None:
        while not client.printed:
            time.sleep(0.05)
        JobClient(head.address).client.stop_job(job)

    threading.Thread(target=stop, daemon=True).start()
    assert client.follow(job) == 143
    with pytest.raises(JobError, match="does not exist"):
        client.follow("no-such-job")
