"""27 trials unattended from the command line, and the same with the driver killed half-way: too long for every day."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from s2l_ray.testing.tiny import tiny_run_config

pytestmark = [
    pytest.mark.timeout(7200),
    # 54 fine-tunings take half an hour and more on two cores. To keep tables and pictures: pytest -s --basetemp=FOLDER
    pytest.mark.slow,
]

BUDGETS, SELECTORS, NUM_SEEDS = [0.05, 0.1, 0.2, 0.4], ["s2l", "random"], 3
NUM_TRIALS = (len(BUDGETS) * len(SELECTORS) + 1) * NUM_SEEDS
FIGURES = ("loss", "macro", "per_token", "exact_match", "loss_before")


def write_config(folder: Path) -> Path:
    made = tiny_run_config(folder / "run")
    made["target"] = {**made["proxy"], "length": "same_steps", "epochs": 2}
    made["target"]["from_config"] = dict(made["proxy"]["from_config"], hidden_size=48)
    made["sweep"] = {"budgets": BUDGETS, "selectors": SELECTORS, "num_seeds": NUM_SEEDS, "max_concurrent": 99}
    path = folder / "sweep.json"
    folder.mkdir(parents=True)
    path.write_text(json.dumps(made))
    return path


def start(config: Path, out: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with config.with_name(out).open("w") as file:
        command = [sys.executable, "-m", "s2l_ray.cli", "sweep", str(config)]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, text=True)


def run_to_its_end(config: Path, out: str) -> str:
    started = time.monotonic()
    code = start(config, out).wait()
    said = config.with_name(out).read_text()
    print(f"\n{out}: {time.monotonic() - started:.0f} s\n{said}")
    assert code == 0, said
    return said


def finished(folder: Path) -> dict[str, int]:
    """Targets that are complete, and when they were completed."""
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("run/target/*/manifest.json")}


def table(folder: Path) -> dict[tuple[Any, ...], dict[str, float]]:
    rows = pq.read_table(folder / "run/sweep/results.parquet").to_pylist()
    found = {tuple(r[k] for k in ("trial", "heldout_set", "source")): {f: r[f] for f in FIGURES} for r in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "undisturbed"
    said = run_to_its_end(write_config(folder), "output.txt")
    assert f"[sweep] target: {NUM_TRIALS} trials;" in said
    assert f"[sweep] target {NUM_TRIALS}/{NUM_TRIALS}" in said
    return folder


def test_27_trials_run_unattended_to_table_curve_and_pictures(undisturbed):
    rows = pq.read_table(undisturbed / "run/sweep/results.parquet").to_pylist()
    whole = [r for r in rows if r["source"] is None]
    assert Counter((r["selector"], r["budget"]) for r in whole) == {
        ("full", 1.0): NUM_SEEDS, **{(s, b): NUM_SEEDS for s in SELECTORS for b in BUDGETS}
    }  # fmt: skip
    assert {r["seed"] for r in whole} == set(range(NUM_SEEDS))
    report = json.loads((undisturbed / "run/sweep/report.json").read_text())
    assert not report["failed"]
    assert all(len(set(p["values"])) == NUM_SEEDS for p in report["curves"]["target"]), "seeds make no difference"
    for picture in ("budget", "cost", "sources"):
        assert (undisturbed / f"run/sweep/{picture}.png").stat().st_size > 0


def test_a_driver_killed_half_way_resumes_to_the_same_table_and_repeats_nothing(undisturbed, tmp_path):
    folder = tmp_path / "killed"
    config = write_config(folder)
    started = time.monotonic()
    driver = start(config, "killed.txt")
    try:
        while len(finished(folder)) < NUM_TRIALS // 2:
            assert driver.poll() is None, (folder / "killed.txt").read_text()
            time.sleep(0.2)
    finally:
        driver.kill()
        driver.wait()
    print(f"\nkilled after {time.monotonic() - started:.0f} s")
    before = finished(folder)
    assert len(before) < NUM_TRIALS
    said = run_to_its_end(config, "resumed.txt")
    assert f"{NUM_TRIALS} trials, {len(before)} of them already done" in said
    after = finished(folder)
    assert {name: after[name] for name in before} == before, "a finished trial was repeated"
    assert len(after) == NUM_TRIALS
    expected = table(undisturbed)
    assert table(folder).keys() == expected.keys()
    for key, figures in table(folder).items():
        assert figures == pytest.approx(expected[key], abs=1e-6, nan_ok=True), key
