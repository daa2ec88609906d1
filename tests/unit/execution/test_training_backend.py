"""Ray Train's controller imports little: seconds of every training, and hundreds of megabytes beside it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from s2l_ray.execution.placement import Placement
from s2l_ray.execution.training import _backend

CONTROLLER = """
import sys
import ray.train.v2._internal.execution.controller.controller
import ray.train.backend
import s2l_ray.execution.fail_fast, s2l_ray.execution.restart_callback, s2l_ray.storage.folder
print(sorted({"torch", "transformers", "deepspeed"} & set(sys.modules)))
"""


@pytest.mark.thorough
def test_what_the_controller_is_given_needs_no_torch():
    done = subprocess.run([sys.executable, "-c", CONTROLLER], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


@pytest.mark.parametrize(
    ("device", "workers", "process_group", "expected"),
    [
        ("cpu", 1, False, None), ("cpu", 1, True, "gloo"), ("cpu", 2, False, "gloo"), ("gpu", 1, False, "nccl"),
        ("gpu", 8, True, "nccl"),
    ],
)  # fmt: skip
def test_workers_are_connected_where_they_need_it(device: str, workers: int, process_group: bool, expected: str | None):
    placement = Placement(device, workers, 1.0, float(device == "gpu"), None, 1)
    assert getattr(_backend(placement, process_group), "backend", None) == expected
