"""Runs that are killed at seeded random moments, again and again, and end as if nothing had been.

S2L_FAULTS_SEED chooses other moments, S2L_FAULTS_ROUNDS how many seeds from there on; every test says with which seed
its own come again.
"""

from __future__ import annotations

import os
import random

import pytest

from s2l_ray.testing.faults.disturbed import (
    Workplace,
    assert_not_made_again,
    assert_nothing_left,
    chain,
    complete_files,
)
from s2l_ray.testing.faults.fault_plan import STAGES, Fault, faults_over_all_stages, few_faults
from tests.support.undisturbed_run import Undisturbed

FIRST_SEED = int(os.environ.get("S2L_FAULTS_SEED", "0"))
SEEDS = range(FIRST_SEED, FIRST_SEED + int(os.environ.get("S2L_FAULTS_ROUNDS", "1")))
pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200), pytest.mark.parametrize("seed", SEEDS)]


def finish(undisturbed: Undisturbed) -> None:
    """The same command ends complete; then nothing tells the run from the undisturbed one."""
    place = undisturbed.place
    before = complete_files(place.run)
    outcome = place.s2l("run", undisturbed.config)
    assert outcome.code == 0, outcome.output
    assert_not_made_again(before, place.run)
    undisturbed.assert_same(place.run)
    assert_nothing_left(place)


@pytest.mark.thorough
@pytest.mark.timeout(1500)
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_been(
    undisturbed: Undisturbed, place: Workplace, seed: int
) -> None:
    print(f"S2L_FAULTS_SEED={seed} pytest tests/faults/test_kills.py")
    faults = few_faults(undisturbed.points, random.Random(seed))
    struck = chain(place, faults, "run", undisturbed.config)
    assert sorted(map(str, struck)) == sorted(map(str, faults)), "each of them must have killed somebody"
    finish(undisturbed)


@pytest.mark.slow  # half an hour: twenty kills, on several runs
def test_kills_in_every_stage(undisturbed_by_two: Undisturbed, seed: int) -> None:
    """One at least in every stage and every phase of the trainings, on as few runs as that takes."""
    print(f"S2L_FAULTS_SEED={seed} pytest tests/faults/test_kills.py")
    undisturbed, place, rng = undisturbed_by_two, undisturbed_by_two.place, random.Random(seed)
    left = faults_over_all_stages(undisturbed.points, rng, max_delay=1.0)
    struck: list[Fault] = []
    num_runs = 0
    while left and num_runs < 5:
        struck += chain(place, left, "run", undisturbed.config)
        finish(undisturbed)
        place.delete_run()
        num_runs += 1
        left = [fault for fault in left if fault not in struck]
    print(f"{len(struck)} kills on {num_runs} runs; not reached: {left}")
    assert len(struck) >= 20
    assert {fault.stage for fault in struck} >= set(STAGES)
