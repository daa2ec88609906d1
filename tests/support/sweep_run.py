"""One undisturbed sweep, of which several files of tests look at the trials, and what they ask of a sweep."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.api import SweepResult, sweep
from s2l_ray.config import load_config
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config

CHECKPOINT_STEPS = 4


def tree(folder: Path, **asked: Any) -> dict[str, Any]:
    """A target that is not the proxy, with checkpoints on the way; `asked`: of the section sweep."""
    made = tiny_run_config(folder)
    target = {**made["proxy"], "length": "same_steps", "epochs": 2, "checkpoint_every_steps": CHECKPOINT_STEPS}
    target |= {"from_config": dict(made["proxy"]["from_config"], hidden_size=48), "log_every_steps": 1}
    settings = {"budgets": [0.1, 0.3], "num_seeds": 1, "max_concurrent": 99}
    return made | {"target": target, "sweep": settings | asked}


def swept(folder: Path, find_smallest: bool = False, **asked: Any) -> tuple[SweepResult, str]:
    progress = Quiet()
    result = sweep(load_config(tree(folder, **asked)), find_smallest=find_smallest, progress=progress)
    return result, progress.lines()


@pytest.fixture(scope="session")
def undisturbed_sweep(tmp_path_factory, finished) -> tuple[SweepResult, str]:
    """2 selectors × 2 budgets + the full data, far more of them at once asked for than fit; the proxy is there."""
    folder = tmp_path_factory.mktemp("sweeps") / "undisturbed"
    shutil.copytree(finished.storage.local_path(), folder, ignore=shutil.ignore_patterns("subset"))
    return swept(folder)


@pytest.fixture
def trialless_copy(undisturbed_sweep, tmp_path) -> Path:
    """Its run without its trials: corpus, proxy and clusters are there."""
    whole = undisturbed_sweep[0].run.storage.local_path()
    return Path(shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("sweep", "target", "subset")))


def values(result: SweepResult, phase: str = "target") -> dict[tuple[str, float], list[float]]:
    return {(p["selector"], p["budget"]): p["values"] for p in result.report["curves"][phase]}


def manifests(folder: Path) -> dict[Path, int]:
    """TrialResult targets and when they finished."""
    return {p: p.stat().st_mtime_ns for p in folder.glob("target/*/manifest.json")}


def wait_until(what: Callable[[], Any], seconds: float = 400) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    raise TimeoutError
