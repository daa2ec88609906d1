"""One undisturbed run that all disturbed ones are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.testing.faults.disturbed import Workplace, assert_nothing_left, contents, differences, workplace
from s2l_ray.testing.faults.fault_plan import Points, read_points
from s2l_ray.testing.tiny import tiny_run_config

SUBSET = "s2l-0.3"


def tree_of(place: Workplace, target_workers: int) -> dict[str, Any]:
    """Every stage there is, with checkpoints and evaluations on the way. One worker trains in a task, two are Ray
    Train's."""
    tree = tiny_run_config(
        place.run, num_examples=300, heldout={"share": 0.05}, proxy__epochs=1, proxy__checkpoint_every_steps=2,
        trajectories={"num_snapshots": 3, "tokens_per_batch": 1024, "examples_per_part": 64},
        selection__budgets=[0.3], resources__target__workers=target_workers,
    )  # fmt: skip
    tree["target"] = {**tree["proxy"], "subsets": [SUBSET], "epochs": 2, "evaluate_every_steps": 4,
                      "patience": 99}  # fmt: skip
    tree["sweep"] = {"budgets": [0.3], "selectors": ["s2l", "random"], "num_seeds": 1, "full": False}
    return tree


class Undisturbed:
    """A finished run, moved away from where the others will live, and the fault points that it went through."""

    def __init__(self, place: Workplace, target_workers: int = 1) -> None:
        self.place = place
        self.config = place.config(tree_of(place, target_workers))
        record = place.base / "points.txt"
        outcome = place.s2l("run", self.config, record=record)
        assert outcome.code == 0, outcome.output
        assert_nothing_left(place)
        self.points: Points = read_points(record)
        self.run = place.move_run("undisturbed")
        self.contents = contents(self.run)

    def assert_same(self, run: Path) -> None:
        told = differences(contents(run), self.contents)
        assert not told, "\n".join(told[:20])


@pytest.fixture(scope="session")
def undisturbed() -> Iterator[Undisturbed]:
    with workplace() as place:
        yield Undisturbed(place)


@pytest.fixture
def undisturbed_by_two() -> Iterator[Undisturbed]:
    """With a target that two workers train."""
    with workplace() as place:
        yield Undisturbed(place, target_workers=2)


@pytest.fixture
def place(undisturbed: Undisturbed) -> Iterator[Workplace]:
    """Where the next run lives: there is none yet."""
    yield undisturbed.place
    undisturbed.place.delete_run()
