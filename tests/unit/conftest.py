"""What a session that starts a Ray leaves in the environment is not for tests that need none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_cluster_of_the_session() -> Iterator[None]:
    """Before a module's other fixtures: whether Ray is embedded decides what is checked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
