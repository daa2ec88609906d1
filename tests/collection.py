"""Which tests run, and beside which: slow ones when asked for; those of one cluster in one process (`pytest -n 2`)."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    has_cluster = {_module(item) for item in items if "ray_cluster" in getattr(item, "fixturenames", ())}
    for item in items:
        # A module's tests stay together, for the sake of its fixtures.
        item.add_marker(pytest.mark.xdist_group("cluster" if _module(item) in has_cluster else _module(item)))
        if item.get_closest_marker("slow") and not os.environ.get("S2L_LONG_TESTS"):
            item.add_marker(pytest.mark.skip(reason="slow; S2L_LONG_TESTS=1 runs it"))


def _module(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
