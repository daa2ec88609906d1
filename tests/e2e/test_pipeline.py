"""The whole way on real Ray: what a run leaves, what a second run repeats, what a killed run loses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import s2l_ray
from s2l_ray.artifacts.run import Run, RunError, load_run
from s2l_ray.observability.metrics_log import read_metrics
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.processes import train_workers
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config

pytestmark = pytest.mark.usefixtures("ray_cluster")


def fingerprints(run) -> dict[str, str]:
    return {name: stage.manifest.content_fingerprint for name, stage in run.stages.items()}


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Run:
    """The shared run, for tests that change it."""
    folder = shutil.copytree(finished.storage.local_path(), tmp_path / "copied")
    tree = finished.config.model_dump(mode="json") | {"run_dir": str(folder)}
    return s2l_ray.run(tree, progress=Quiet())


def test_a_run_leaves_what_it_promises(finished):
    matrix = finished.trajectories()
    assert matrix.losses.shape == (finished.stage("corpus").manifest.row_counts["examples"], 4)
    assert np.isfinite(matrix.losses).all()
    assert matrix.losses[:, -1].mean() < matrix.losses[:, 0].mean() - 0.5, "the proxy has learnt nothing"
    assert len(np.unique(matrix.ids, axis=0)) == len(matrix.ids)
    proxy = finished.stage("proxy").manifest
    assert [s["step"] for s in proxy.extra["snapshots"]] == sorted({s["step"] for s in proxy.extra["snapshots"]})
    assert proxy.extra["snapshots"][0]["step"] == 1
    assert proxy.extra["flops"]["training"] > proxy.extra["flops"]["scoring"] / 4
    assert not finished.stage("proxy").storage.exists("ray_train")
    events = read_metrics(finished.storage)
    assert {"stage_started", "stage_done", "train", "snapshot"} <= {e["event"] for e in events}
    for name in ("model/model.safetensors", "model/config.json", "model/tokenizer.json"):
        assert finished.stage("proxy").storage.exists(name)


def test_the_stored_losses_are_those_of_the_stored_model(finished):
    """An independent way: load the exported proxy, read the rows, compute the last snapshot one by one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished.stage("proxy").storage.local_path("model")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    subset = finished.subsets["s2l-0.1"].storage
    rows = [json.loads(line) for line in subset.read_bytes("subset.jsonl").splitlines()]
    assert len(rows) > 20
    for row in rows[:20]:
        prompt = tokenizer(row["instruction"] + "\n")["input_ids"]
        response = tokenizer(row["output"])["input_ids"] + [tokenizer.eos_token_id]
        ids = torch.tensor([prompt + response])
        labels = torch.tensor([[-100] * len(prompt) + response])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=labels).loss.item()
        assert abs(loss - row["s2l_loss_last"]) < 1e-4


def test_subsets_are_exact_nested_and_load_elsewhere(finished, tmp_path):
    import datasets

    examples = finished.stage("corpus").manifest.row_counts["examples"]
    small, large = finished.subsets["s2l-0.1"], finished.subsets["s2l-0.3"]
    ids = {}
    for share, stage in ((0.1, small), (0.3, large)):
        path = stage.storage.local_path("subset.jsonl")
        loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path))
        table = pq.read_table(stage.storage.local_path("subset.parquet"))
        assert len(loaded) == table.num_rows == int(share * examples + 0.5)
        assert {"instruction", "output", "source", "s2l_cluster", "s2l_rank", "s2l_loss_last"} <= set(
            loaded.column_names
        )
        assert loaded["s2l_id"][:] == table["s2l_id"].to_pylist()
        ids[share] = set(loaded["s2l_id"])
    assert ids[0.1] < ids[0.3]
    info = small.storage.read_json("dataset_info.json")["s2l_subset"]
    assert info == {"file_name": "subset.jsonl", "columns": {"prompt": "instruction", "response": "output"}}


def test_a_second_run_repeats_only_what_depends_on_a_change(copied):
    again = Quiet()
    same = s2l_ray.run(copied.config, progress=again)
    assert all(stage.reused for stage in same.stages.values())
    assert again.lines().count("unchanged, skipped") == len(same.stages)
    tree = copied.config.model_dump(mode="json")
    tree["clusters"]["num_clusters"] = 5
    changed = s2l_ray.run(tree, progress=Quiet())
    assert {n for n, s in changed.stages.items() if not s.reused} == {"clusters", "subset/s2l-0.1", "subset/s2l-0.3"}
    back = s2l_ray.run(copied.config, progress=Quiet())
    assert all(stage.reused for stage in back.stages.values()), "the old artifacts are still there"
    assert fingerprints(back) == fingerprints(copied)


def test_a_damaged_artifact_is_made_again(finished, tmp_path):
    shutil.copytree(finished.storage.local_path(), tmp_path / "copy")
    tree = finished.config.model_dump(mode="json") | {"run_dir": str(tmp_path / "copy")}
    victim = next((tmp_path / "copy" / finished.stage("clusters").folder).glob("centroids.parquet"))
    victim.write_bytes(b"torn")
    progress = Quiet()
    repaired = s2l_ray.run(tree, progress=progress)
    assert "centroids.parquet" in progress.lines()
    assert not repaired.stages["clusters"].reused
    assert repaired.stages["proxy"].reused
    assert fingerprints(repaired) == fingerprints(finished)


def test_select_adds_a_budget_without_ray(copied):
    """In a process of its own: no Ray is started, nothing is trained."""
    code = (
        "import sys, s2l_ray, ray; s = s2l_ray.select(sys.argv[1], 0.2); assert not ray.is_initialized();"
        "print(s.manifest.row_counts['examples'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(copied.storage.local_path())],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    examples = copied.stage("corpus").manifest.row_counts["examples"]
    assert int(done.stdout.splitlines()[-1]) == int(examples * 0.2 + 0.5)
    assert "s2l-0.2" in load_run(str(copied.storage.local_path())).subsets
    again = s2l_ray.run(copied.config, progress=Quiet())
    assert "s2l-0.2" in again.subsets, "a run that goes on forgets no subset made from the same clusters"
    tree = copied.config.model_dump(mode="json")
    tree["clusters"]["num_clusters"] = 7
    assert "s2l-0.2" not in s2l_ray.run(tree, progress=Quiet()).subsets
    assert "s2l-0.2" not in load_run(str(copied.storage.local_path())).subsets


@pytest.mark.parametrize(("budget", "message"), [(10**9, "budget"), (1.5, "neither a count"), (0, "neither a count")])
def test_impossible_budgets_are_refused(finished, budget, message):
    with pytest.raises(ValueError, match=message):
        s2l_ray.select(str(finished.storage.local_path()), budget, progress=Quiet())


def test_an_empty_folder_is_no_run(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        load_run(str(tmp_path))


def test_two_workers_score_as_one(tmp_path):
    """Same weights (step 0), same losses, bit for bit; in and after training, the same up to rounding."""
    runs = {}
    for workers in (1, 2):
        tree = tiny_run_config(
            tmp_path / str(workers), trajectories__include_step_zero=True, resources__proxy__workers=workers,
            proxy__epochs=1, trajectories__source="hybrid", trajectories__num_snapshots=2,
        )  # fmt: skip
        runs[workers] = s2l_ray.run(tree, progress=Quiet()).trajectories()
    assert runs[1].losses.shape == (len(runs[1].ids), 3)
    np.testing.assert_array_equal(runs[1].ids, runs[2].ids)
    np.testing.assert_array_equal(runs[1].losses[:, 0], runs[2].losses[:, 0])
    np.testing.assert_allclose(runs[1].losses, runs[2].losses, atol=1e-3)
    assert not np.array_equal(runs[1].losses[:, 0], runs[1].losses[:, 2])


def test_a_run_lives_on_s3(finished, s3_uri):
    """Corpus read from and run written to a real S3 server; the same subset as on the local disk."""
    [path] = finished.storage.local_path("quickstart").glob("train-*.jsonl")
    rows = path.read_bytes()
    base, _, query = s3_uri.partition("?")
    data = Storage.open(f"{base}/data?{query}")
    data.write_bytes("train.jsonl", rows)
    tree = tiny_run_config(Path("unused"), corpus__paths=[f"{base}/data/*.jsonl?{query}"])
    tree["run_dir"] = f"{base}/run?{query}"
    del tree["corpus"]["quickstart"]
    progress = Quiet()
    run = s2l_ray.run(tree, progress=progress)
    for name, value in fingerprints(finished).items():
        assert fingerprints(run)[name] == value, name
    again = s2l_ray.run(tree, progress=Quiet())
    assert all(stage.reused for stage in again.stages.values())
    one_more = s2l_ray.select(tree["run_dir"], 50, progress=Quiet())
    assert len(one_more.storage.read_bytes("subset.jsonl").splitlines()) == 50
    assert not Storage.open(tree["run_dir"]).list("locks")


def wait_for_snapshot(folder: Path, number: int, seconds: float) -> bool:
    """Until some part of the snapshot is there: scoring is under way."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(folder.glob(f"proxy/*/snapshots/snapshot-{number:03d}/*/part-*.parquet")):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.slow  # tests/faults kills runs in every stage, always
def test_a_killed_worker_costs_nothing_but_time(finished, tmp_path):
    killed = []

    def kill() -> None:
        if wait_for_snapshot(tmp_path / "run", 1, 120):
            for process in train_workers():
                process.send_signal(signal.SIGKILL)
                killed.append(process.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    run = s2l_ray.run(tiny_run_config(tmp_path / "run"), progress=Quiet())
    thread.join()
    assert killed, "no worker was found to kill"
    assert fingerprints(run) == fingerprints(finished)
    np.testing.assert_array_equal(run.trajectories().losses, finished.trajectories().losses)


@pytest.mark.slow  # tests/faults kills runs in every stage, always
def test_a_killed_driver_resumes_to_the_same_end(finished, tmp_path):
    folder = tmp_path / "run"
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tiny_run_config(folder)))
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "s2l_ray.cli", "run", str(config)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        assert wait_for_snapshot(folder, 2, 180)
    finally:
        first.kill()
        first.wait()
    assert not list(folder.glob("clusters/*/manifest.json"))
    before = {p: p.stat().st_mtime_ns for p in folder.glob("proxy/*/snapshots/snapshot-00[01]/*/*.parquet")}
    assert before
    second = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert second.returncode == 0, second.stderr
    assert all(p.stat().st_mtime_ns == t for p, t in before.items()), "complete snapshots were scored again"
    assert fingerprints(load_run(str(folder))) == fingerprints(finished)
    assert "unchanged, skipped" in second.stdout
    summary = second.stdout.split("Done in")[1].splitlines()
    assert 7 <= len(summary) <= 11
    assert any("subset.jsonl" in line for line in summary)
