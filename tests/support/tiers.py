"""Which cases of a parametrised test everybody runs, and which only `pytest --thorough`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def rest_thorough(cases: Iterable[Any], quick: int = 1) -> list[Any]:
    """Parameters of which those after the first `quick` are marked thorough; tuples are several arguments."""
    cases = list(cases)
    return cases[:quick] + [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.thorough)
        for case in cases[quick:]
    ]
