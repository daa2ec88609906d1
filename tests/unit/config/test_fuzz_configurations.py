"""Thousands of mutated configurations: each is accepted, or refused in one readable message; no crash, no gigabytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import SUPPORT

SEED = 2026
PROGRAM = SUPPORT / "fuzz_configurations.py"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "num_cases", [60, pytest.param(1_000, marks=pytest.mark.thorough), pytest.param(15_000, marks=pytest.mark.slow)]
)
def test_every_mutated_configuration_is_accepted_or_refused_clearly(num_cases, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, PROGRAM, str(SEED), str(num_cases), tmp_path], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["wrong_cases"] == []
    assert report["accepted"] > num_cases / 10
    assert report["refused"] > num_cases / 3
    assert report["peak_bytes"] < 10**9
