"""A trial of a sweep is tried again after what may pass, and after nothing else."""

from __future__ import annotations

from typing import Any, cast

import pytest
import ray

from s2l_ray.artifacts.stage import Stage
from s2l_ray.errors import DataError, UserError
from s2l_ray.execution.capacity_wait import CapacityTimeoutError
from s2l_ray.stages.clusters.build import ClusteringFailedError
from s2l_ray.storage.retry import StorageError, StorageFullError
from s2l_ray.sweeps.tune import try_until_final


def tried(errors: list[Exception], max_failures: int) -> tuple[Any, int, list[tuple[Exception, int]]]:
    """(what came of it, tries, what was noted)."""
    left, tries, noted = list(errors), [0], list[tuple[Exception, int]]()

    def make() -> Stage:
        tries[0] += 1
        if left:
            raise left.pop(0)
        return cast(Stage, "made")

    try:
        came: Any = try_until_final(make, max_failures, lambda error, n: noted.append((error, n)), pause_s=0)
    except Exception as error:
        came = error
    return came, tries[0], noted


@pytest.mark.parametrize("error", [StorageError("no answer"), ConnectionResetError(), ray.exceptions.ActorDiedError()])
def test_a_trial_is_tried_again_after_what_may_pass(error: Exception):
    assert tried([error] * 2, max_failures=3) == ("made", 3, [(error, 1), (error, 2)])
    assert tried([error] * 9, max_failures=2) == (error, 3, [(error, 1), (error, 2)])
    assert tried([error] * 9, max_failures=0) == (error, 1, [])
    assert tried([error] * 9, max_failures=-1)[0] == "made"


@pytest.mark.parametrize(
    "error",
    [
        UserError("u"),
        DataError("d"),
        StorageFullError("f"),
        CapacityTimeoutError("c"),
        ClusteringFailedError("k"),
        KeyError(),
    ],
)
def test_a_trial_is_not_tried_again_after_what_would_end_alike(error: Exception):
    assert tried([error], max_failures=3) == (error, 1, [])
