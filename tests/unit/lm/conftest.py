"""The tiny corpus on which tests of this folder train targets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.target_world import World, make_world, one_process


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """In a process that can train."""
    folder = tmp_path_factory.mktemp("world")
    with one_process(folder / "store"):
        yield make_world(folder)
