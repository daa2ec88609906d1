"""Every program in benchmarks/ runs, at its smallest size: what it measures there says nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from s2l_ray.data.quickstart import write_corpus
from tests.support.paths import ROOT

pytestmark = pytest.mark.ray  # each starts one of its own

CORPUS = "{corpus}"
SMALLEST = {
    "every_selector": (["--sizes", "300", "--dim", "4", "--selectors", "s2l", "facility_location"], "s2l  "),
    "answers": (["--rows", "200"], "200 rows searched"),
    "generation": (
        ["--questions", "3", "--new-tokens", "2", "--hidden-size", "32", "--layers", "1", "--budgets", "400"],
        "the same texts every time",
    ),
    "gpu": (["--tiny", "--modes", "padded", "packed"], "section=target"),
    "sandbox": (["--programs", "4", "--processes", "1"], "sympy, one by one"),
    "scaling": (
        [CORPUS, "--workers", "1", "--rounds", "1", "--steps", "2", "--batch", "8", "--hidden-size", "16"],
        "training, tokens/s",
    ),
    "scoring": (
        f"{CORPUS} --shape tiny --rounds 1 --examples 8 --pipeline-examples 64 --snapshots 2".split(),
        "of the scorer in a plain loop",
    ),
    "selection": (["--sizes", "500", "--clusters", "5", "--budgets", "0.1"], "1 budgets"),
    "trajectory_sources": (
        ["quickstart", "--examples=300", "--seeds", "0", "--snapshots=3", "--hybrids=1", "--raw", "--target-steps=2"],
        "| hybrid, 1, raw |",
    ),
    "wall_clock": (
        ["--sizes=300", "--proxy=tiny", "--target=tiny", "--sample=4", "--dim=8", "--clusters=5", "--out=out"],
        "| 300 | facility location, by the target |",
    ),
    "target": (["--shape", "tiny", "--zero-stage", "0", "--steps", "1", "--batch", "4"], "GB per worker"),
}


ELSEWHERE = {"evidence", "evidence_pretrained"}
"""Those that tests/unit/benchmarks runs."""


def test_none_is_left_out():
    assert {path.stem for path in ROOT.glob("benchmarks/*.py")} == set(SMALLEST) | ELSEWHERE


# Slow: those that start whole runs, or compile and train for a minute and more.
WHOLE_RUNS = {"gpu", "scaling", "scoring", "target", "trajectory_sources", "wall_clock"}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in WHOLE_RUNS else n for n in sorted(SMALLEST)]
)
def test_a_benchmark_runs(name: str, tmp_path: Path):
    arguments, says = SMALLEST[name]
    corpus = str(write_corpus(tmp_path, 300)[0])
    command = [sys.executable, str(ROOT / f"benchmarks/{name}.py"), *(a.replace(CORPUS, corpus) for a in arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert says in done.stdout, done.stdout
