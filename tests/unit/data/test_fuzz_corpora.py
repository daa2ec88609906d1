"""Thousands of random corpora: no error but the project's own, no message that is too long, no row lost, no memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import SUPPORT


@pytest.mark.parametrize(
    "num_cases", [100, pytest.param(1_500, marks=pytest.mark.thorough), pytest.param(20_000, marks=pytest.mark.slow)]
)
def test_random_corpora_are_read_whole_or_refused_in_words(num_cases: int):
    script = SUPPORT / "fuzz_corpora.py"
    done = subprocess.run([sys.executable, str(script), "0", str(num_cases)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    cases, refused, used, quarantined, peak_mib = map(int, done.stdout.split())
    assert cases == num_cases
    assert cases // 5 < refused < cases * 0.45, "both outcomes are tried"
    assert used > 5 * cases
    assert quarantined > cases
    assert peak_mib < 1000
