"""A GPU by name only: Ray counts one, torch here sees none. What only a real GPU could show is in no test here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from s2l_ray.testing.ray_head import RayHead
from s2l_ray.testing.tiny import tiny_run_config

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here"),
]


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    head = RayHead({}, num_cpus=4)
    head._command.append("--num-gpus=1")
    with head:
        yield head


def s2l(head: RayHead, folder: Path, **resources: Any) -> subprocess.CompletedProcess[str]:
    tree = tiny_run_config(folder / "run", num_examples=200, proxy__epochs=1, selection__budgets=[0.3])
    tree["resources"] |= resources
    config = folder / "config.json"
    config.write_text(json.dumps(tree))
    command = [sys.executable, "-m", "s2l_ray.cli", "run", str(config)]
    environment = head.environment | {"RAY_ADDRESS": head.gcs_address}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_auto_says_so_and_runs_on_cpus(head: RayHead, tmp_path: Path):
    done = s2l(head, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[cluster] Ray counts GPUs on " in done.stdout, done.stdout
    assert "everything runs on CPUs. To use the GPUs, install a torch" in done.stdout
    assert "[clusters] done" in done.stdout
    manifest = json.loads(next((tmp_path / "run" / "proxy").glob("*/manifest.json")).read_text())
    assert manifest["device"] == "cpu"


@pytest.mark.thorough
def test_gpu_is_refused_before_anything_starts(head: RayHead, tmp_path: Path):
    done = s2l(head, tmp_path, device="gpu")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "resources.device=gpu: Ray counts GPUs on " in done.stderr
    assert "install a torch" in done.stderr
    assert not (tmp_path / "run" / "corpus").exists()
