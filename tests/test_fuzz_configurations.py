"""Thousands of mutated configurations: each is accepted, or refused in one readable message; no crash, no gigabytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SEED = 2026
CASES = 15_000 if os.environ.get("S2L_LONG_TESTS") else 1_500
PROGRAM = Path(__file__).with_name("fuzz_configurations.py")


@pytest.mark.timeout(900)
def test_every_mutated_configuration_is_accepted_or_refused_clearly(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, PROGRAM, str(SEED), str(CASES), tmp_path], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["wrong_cases"] == []
    assert report["accepted"] > CASES / 10
    assert report["refused"] > CASES / 3
    assert report["peak_bytes"] < 10**9
