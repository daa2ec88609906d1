"""Thousands of random corpora: no error but the project's own, no message that is too long, no row lost, no memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CASES = 20_000 if os.environ.get("S2L_LONG_TESTS") else 1_500


def test_random_corpora_are_read_whole_or_refused_in_words():
    script = Path(__file__).with_name("fuzz_corpora.py")
    done = subprocess.run([sys.executable, str(script), "0", str(CASES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    cases, refused, used, quarantined, peak_mib = map(int, done.stdout.split())
    assert cases == CASES
    assert cases // 5 < refused < cases * 0.45, "both outcomes are tried"
    assert used > 5 * cases
    assert quarantined > cases
    assert peak_mib < 1000
