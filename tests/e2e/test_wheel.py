"""A wheel in an environment of its own, without the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.wheel import build_wheel_in


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_alone_works_in_a_fresh_environment(tmp_path: Path):
    """Installed as users install it, from the package index, without the repository."""
    build_wheel_in(tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    constraints = ["-c", str(ROOT / "constraints.txt")]
    done = subprocess.run([python, "-m", "pip", "install", "-q", *constraints, f"{wheel}[cpu]"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    work = tmp_path / "work"
    work.mkdir()
    for command, wanted in (
        (["--version"], f"s2l {wheel.name.split('-')[1]}\n"), (["recipes"], "quickstart"), (["env"], "faiss-cpu"),
        (["schema"], '"$schema"'), (["run", "quickstart", "--dry-run"], "Dry run: nothing was started."),
        (["run", "quickstart", "corpus.quickstart.num_examples=300", "proxy.max_steps=10", "target.max_steps=5"],
         "random-0.2"),
    ):  # fmt: skip
        s2l = [str(tmp_path / "venv/bin/s2l"), *command]
        done = subprocess.run(s2l, capture_output=True, text=True, cwd=work, env=alone, timeout=900)
        assert done.returncode == 0, (command, done.stderr[-2000:])
        assert wanted in done.stdout, command
    assert (work / "runs/quickstart/report/index.html").stat().st_size > 100_000
