"""Which tests run, and in which process: thorough and slow ones when asked for, those with a Ray in one process."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

_STARTS_RAY = {"RayHead", "AutoscalingHead", "local_ray", "ray_session", "Workplace"}
_WITH_RAY = ("tests/ray/", "tests/faults/", "tests/e2e/")
_OWN_RAY = ("tests/e2e/test_jobs.py", "tests/ray/test_job_following.py", "tests/faults/test_striker.py")
"""Files that need nothing of the session's cluster, so they can run beside it."""


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _refuse_ray_among_the_quick(items)
    slow_too, thorough_too = "slow" in _named(config), runs_thorough(config)
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if item.nodeid.startswith(_WITH_RAY):
            item.add_marker(pytest.mark.ray)
        if item.nodeid.startswith("tests/faults/"):
            item.add_marker(pytest.mark.faults)
        if item.nodeid.startswith("tests/gpu/"):
            item.add_marker(pytest.mark.gpu)
        if "s3_server" in fixtures:
            item.add_marker(pytest.mark.s3)
        if item.get_closest_marker("slow"):
            if not slow_too:
                item.add_marker(pytest.mark.skip(reason="slow; `pytest -m slow` runs it"))
        elif item.get_closest_marker("thorough") and not thorough_too:
            item.add_marker(pytest.mark.skip(reason="thorough; `pytest --thorough` runs it"))


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """With `-n`, one process runs all tests that need the session's Ray, file after file, and the others run the rest:
    a second cluster and second copies of the runs that tests share took minutes."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class OneRay(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            shares = nodeid.startswith(_WITH_RAY) and not nodeid.startswith(_OWN_RAY)
            return "the session's Ray" if shares else super()._split_scope(nodeid)

    return OneRay(config, log)


def pytest_collection_finish() -> None:
    """Modules are no garbage: collections that looked through all that the tests import took a fifth of their time."""
    gc.collect()
    gc.freeze()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Ids without content: packed bytes hold the time, and processes that collect different ids run nothing."""
    return argname if isinstance(val, bytes) else None


def _refuse_ray_among_the_quick(items: list[pytest.Item]) -> None:
    """Tests of `tests/unit` run side by side, where a Ray would slow them down and be slowed down."""
    for item in items:
        held = vars(getattr(item, "module", pytest)).keys()
        if item.nodeid.startswith(_WITH_RAY) or not (
            _STARTS_RAY & held or "ray_cluster" in getattr(item, "fixturenames", ())
        ):
            continue
        raise pytest.UsageError(f"{item.nodeid} starts a Ray: it belongs to tests/ray, tests/faults or tests/e2e")


def runs_thorough(config: pytest.Config) -> bool:
    """Whether thorough tests run, too: fixtures that prepare many cases at once ask."""
    return bool(config.getoption("thorough")) or "thorough" in _named(config)


def _named(config: pytest.Config) -> str:
    return config.getoption("markexpr") or ""
