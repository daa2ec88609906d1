"""Jobs on a real Ray head: submitted, stopped, submitted again; exit codes, logs, metrics, and no secret anywhere."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import s2l_ray
from s2l_ray.artifacts.run import load_run
from s2l_ray.submission.job import JobClient
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.ray_head import RAY, RayHead
from s2l_ray.testing.tiny import tiny_run_config
from tests.support.paths import ROOT

S2L = [sys.executable, "-m", "s2l_ray.cli"]
JOBS = ROOT / "jobs"
NUM_SNAPSHOTS = 4
SECRETS = {
    "HF_TOKEN": f"hf_{secrets.token_hex(17)}",
    "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
    "WANDB_API_KEY": secrets.token_hex(20),
}


@pytest.fixture(scope="module")
def head():
    with RayHead(SECRETS) as head:
        yield head


@dataclass
class Done:
    """An undisturbed run, submitted from a folder that is not the repository."""

    run: Any
    folder: Path
    output: str
    series: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """(metric, stage) → its values, as Prometheus would have seen them."""


def write_config(folder: Path, slow: bool = False) -> Path:
    """`slow`: many snapshots and small batches, something to stop in the middle of."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "my.yaml"
    changes = {"trajectories__num_snapshots": 10, "trajectories__tokens_per_batch": 256}
    changes |= {"proxy__tokens_per_microbatch": 128, "num_examples": 1000}
    tree = tiny_run_config(folder / "run", **(changes if slow else {"trajectories__num_snapshots": NUM_SNAPSHOTS}))
    tree["target"] = {**tree["proxy"], "epochs": 1}  # the whole way
    path.write_text(yaml.safe_dump(tree))
    return path


def start(head: RayHead, command: list[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=folder, env=head.environment | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str]:
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output


def wait_until(true: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if process is not None and process.poll() is not None:
            pytest.fail(f"ended too early: {process.communicate()[0]}")
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def one_more_snapshot(folder: Path) -> Callable[[], bool]:
    """Scoring of a snapshot has begun that was not there before."""
    parts = "run/proxy/*/snapshots/snapshot-*/*/part-*.parquet"
    before = {p.parent for p in folder.glob(parts)}
    return lambda: any(p.parent not in before for p in folder.glob(parts))


def scrape(url: str, series: dict[tuple[str, str], list[float]]) -> None:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            text = reply.read().decode()
    except OSError:  # not up yet
        return
    for name, labels, value in re.findall(r"^ray_(s2l_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        assert tags["run"] == "tiny"
        series.setdefault((name, tags["stage"]), []).append(float(value))


@pytest.fixture(scope="module")
def undisturbed(head, tmp_path_factory) -> Done:
    folder = tmp_path_factory.mktemp("elsewhere")
    write_config(folder)
    process = start(head, [*S2L, "submit", "my.yaml", "--address", head.address], folder, **SECRETS)
    series: dict[tuple[str, str], list[float]] = {}
    while process.poll() is None:
        scrape(head.metrics_url, series)
        time.sleep(1)
    code, output = finish(process)
    assert code == 0, output
    scrape(head.metrics_url, series)  # what the driver sent when it ended
    return Done(load_run(str(folder / "run")), folder, output, series)


def fingerprints(run: Any) -> dict[str, str]:
    return {name: stage.manifest.content_fingerprint for name, stage in run.stages.items()}


def test_the_log_is_for_people(undisturbed):
    lines = undisturbed.output.splitlines()
    assert any("run_dir=" in line and "local path" in line for line in lines), "a local path is worth a warning"
    assert "[cluster] 1 node of 4 CPU; proxy: 1 worker with 1 CPU; target: 1 worker with 1 CPU" in lines
    done = [line for line in lines if re.match(r"\[\S+\] done in ", line)]
    assert [line.split("]")[0][1:] for line in done] == list(undisturbed.run.stages)
    (proxy,) = (line for line in done if line.startswith("[proxy]"))
    assert re.search(r"done in [\d.]+ s \([\d.,]+ worker-seconds, peak memory 0\.\d\d GB per worker\)", proxy)
    # Everything else is ours too: no line of Ray's but that it sets up and runs the job.
    from_ray = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d |\(\w+ pid=|\[20\d\d-", line)]
    assert len(from_ray) <= 1, from_ray


def test_figures_are_ray_metrics(undisturbed):
    series, run = undisturbed.series, undisturbed.run
    examples = run.stage("corpus").manifest.row_counts["examples"]
    scored = series["s2l_examples_scored_total", "proxy"]
    assert scored == sorted(scored)
    assert scored[-1] == NUM_SNAPSHOTS * examples
    assert series["s2l_step", "proxy"][-1] == run.stage("proxy").manifest.extra["summary"]["steps"]
    assert series["s2l_snapshots", "proxy"][-1] == NUM_SNAPSHOTS
    assert 1 < series["s2l_loss_nats", "proxy"][-1] < 6
    assert series["s2l_tokens_per_second", "proxy"][-1] > 0
    assert series["s2l_peak_memory_bytes", "proxy"][-1] > 1e8
    assert {"corpus", "tokens", "proxy", "trajectories"} <= {s for n, s in series if n == "s2l_stage_seconds"}


def test_no_secret_is_stored_or_shown(undisturbed):
    files = [p for p in undisturbed.folder.rglob("*") if p.is_file()]
    assert len(files) > 20
    for name, value in SECRETS.items():
        core = value.removeprefix("hf_")
        assert core not in undisturbed.output, name
        holders = [str(p) for p in files if core.encode() in p.read_bytes()]
        assert not holders, f"{name} is in {holders}"


@pytest.mark.slow  # four jobs one after another: five minutes
def test_a_stopped_job_goes_on_where_it_was(head, tmp_path):
    """`ray job stop`, Ctrl-C at `s2l submit`, Ctrl-C at a driver without a job; then a job entry point ends it."""
    undisturbed = s2l_ray.run(str(write_config(tmp_path / "undisturbed", slow=True)), progress=Quiet())
    write_config(tmp_path, slow=True)
    submit = [*S2L, "submit", "my.yaml", "--address", head.address]
    client = JobClient(head.address).client  # Ray's own would go to $RAY_ADDRESS, the test session's cluster

    begun = one_more_snapshot(tmp_path)
    code, output = finish(start(head, [*submit, "--no-wait"], tmp_path))
    assert code == 0, output
    job = output.split()[-1]
    wait_until(begun)
    client.stop_job(job)
    wait_until(lambda: client.get_job_status(job) == "STOPPED")
    assert "stopped; complete stages are kept, run the same command to resume" in client.get_job_logs(job)
    assert not list(tmp_path.glob("run/locks/*"))

    begun = one_more_snapshot(tmp_path)
    process = start(head, submit, tmp_path)
    wait_until(begun, process)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    assert "[corpus] unchanged, skipped" in output
    assert "from step" in output
    assert "Waiting" not in output, "the stopped job's lock was in the way"
    assert "stopped; complete stages are kept" in output, "the job's last line"
    assert not list(tmp_path.glob("run/locks/*"))

    begun = one_more_snapshot(tmp_path)
    process = start(head, [*S2L, "run", "my.yaml"], tmp_path, RAY_ADDRESS=head.gcs_address)
    wait_until(begun, process)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    assert "interrupted; complete stages are kept" in output
    assert not list(tmp_path.glob("run/trajectories/*/manifest.json"))

    shutil.copy(JOBS / "run_all.py", tmp_path)
    (tmp_path / ".rayignore").write_text("run/\nundisturbed/\n")
    line = [RAY, "job", "submit", "--address", head.address, "--working-dir", ".", "--", "python", "run_all.py"]
    code, output = finish(start(head, [*line, "my.yaml"], tmp_path))
    assert code == 0, output
    assert "from step" in output
    assert fingerprints(load_run(str(tmp_path / "run"))) == fingerprints(undisturbed)


@pytest.mark.thorough
def test_the_jobs_exit_code_comes_back(head, tmp_path):
    write_config(tmp_path)
    too_many = "resources.proxy.workers=50"
    code, output = finish(
        start(head, [*S2L, "submit", "my.yaml", "--address", head.address, "--package=none", too_many], tmp_path)
    )
    assert code == 2, output
    assert "50 workers" in output
    assert not list(tmp_path.glob("run/*/*/manifest.json"))


@pytest.mark.slow
def test_a_signal_ends_a_plain_run_with_its_code(tmp_path):
    """As systemd and Kubernetes do: SIGTERM, here while Ray is being started."""
    write_config(tmp_path)
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [*S2L, "run", "my.yaml"], cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE
    )
    wait_until(lambda: list(tmp_path.glob("run/locks/*")))
    time.sleep(1)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert errors.strip() == "stopped; complete stages are kept, run the same command to resume"
    assert not list(tmp_path.glob("run/locks/*"))
