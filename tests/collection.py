"""Which tests run, and beside which: slow ones when asked for, those that start a Ray alone on the machine."""

from __future__ import annotations

import os

import pytest

_STARTS_RAY = {"RayHead", "AutoscalingHead", "local_ray", "ray_session", "Workplace"}


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    with_ray = {_module(item) for item in items if "ray_cluster" in getattr(item, "fixturenames", ())}
    with_ray |= {_module(item) for item in items if _STARTS_RAY & vars(getattr(item, "module", pytest)).keys()}
    # It compiles for minutes: first, so that where files run side by side something is left to run beside it.
    items.sort(key=lambda item: not _module(item).endswith("test_zero.py"))
    for item in items:
        if _module(item) in with_ray:
            item.add_marker(pytest.mark.ray)
        if item.get_closest_marker("slow") and not os.environ.get("S2L_LONG_TESTS"):
            item.add_marker(pytest.mark.skip(reason="slow; S2L_LONG_TESTS=1 runs it"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Ids without content: packed bytes hold the time, and processes that collect different ids run nothing."""
    return argname if isinstance(val, bytes) else None


def _module(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
