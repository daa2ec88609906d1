"""One real Ray cluster for the whole session; small corpora; no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.support.paths import SHARED

# A property does not fail because the machine is busy. And nothing is traced: what explains a failure traces the whole
# test, in which Python 3.11 has been seen to loop indefinitely, so that a failure would show as a run that hangs.
settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow],
    phases=[phase for phase in Phase if phase != Phase.explain],
)  # fmt: skip
settings.load_profile("unhurried")

pytest_plugins = (
    "s2l_ray.testing.s3", "tests.support.collection", "tests.support.undisturbed_run", "tests.support.target_run",
    "tests.support.sweep_run", "tests.support.answering_model", "tests.support.mounts",
)  # fmt: skip

# Before Ray starts: its workers speak with the test's S3 server too (fixtures_s3.S3_TEST_ENV).
for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    os.environ[name] = "testing"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "3")
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "120000")  # new processes are what takes time here
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="run the tests marked thorough, too")
    parser.addoption("--rewrite-golden", action="store_true", help="write tests/data/golden_run.json anew")


SHARED_RUNS: list[str] = []


@pytest.fixture(scope="session")
def ray_cluster():
    """The session's cluster: 4 logical CPUs, dashboard on (Train's clean-up asks it)."""
    import ray

    from s2l_ray.execution.local_ray import local_ray
    from s2l_ray.execution.session import quiet_ray_data

    with local_ray(num_cpus=4, dashboard=True):
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        quiet_ray_data()
        yield
        os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Any:
    """One undisturbed tiny run that others are compared with. Whoever changes anything takes a copy."""
    import s2l_ray
    from s2l_ray.testing.quiet import Quiet
    from s2l_ray.testing.tiny import tiny_run_config

    run = s2l_ray.run(tiny_run_config(tmp_path_factory.mktemp("finished") / "run"), progress=Quiet())
    SHARED_RUNS.append(run.storage.uri)
    return run


@pytest.fixture(autouse=True)
def shared_run_unchanged(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that adds to the shared run fails itself, and not another one an hour later."""
    if "finished" not in request.fixturenames:
        yield
        return
    run = request.getfixturevalue("finished")
    if run.storage.uri not in SHARED_RUNS:  # a module's own
        yield
        return
    before = _stage_files(run)
    yield
    assert _stage_files(run) == before, "this test has changed the run that all share; give it a copy"


def _stage_files(run: Any) -> list[str]:
    folder = run.storage.local_path()
    return sorted(str(path.relative_to(folder)) for path in folder.glob("*/**/*") if path.is_file())


@pytest.fixture(scope="session")
def math_corpus() -> Path:
    """The real maths corpus that lies beside a checkout in the workshop."""
    path = SHARED / "data/math/train.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here (it is not part of the project)")
    return path
