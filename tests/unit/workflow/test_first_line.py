"""A person hears from `s2l run` at once, not after half a minute of imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from s2l_ray.cli import main
from s2l_ray.observability.progress import Progress

def say(self, text):
    used = resource.getrusage(resource.RUSAGE_SELF)
    slow = [name for name in ("torch", "ray", "transformers") if name in sys.modules]
    print(text, slow, used.ru_utime + used.ru_stime)
    sys.exit(7)

Progress.say = say
main(["run", "quickstart", "run_dir=somewhere"])
"""


@pytest.mark.thorough
def test_the_first_line_comes_before_anything_slow_is_imported():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert done.returncode == 7, done.stderr[-2000:]
    line, _, seconds = done.stdout.strip().rpartition(" ")
    assert line == "[run] quickstart in somewhere: checking models, corpus and cluster []"
    assert float(seconds) < 5, "processor time, whatever else the machine does"
