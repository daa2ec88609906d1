"""Runs that are killed at seeded random moments, again and again, and end as if nothing had been.

S2L_FAULTS_SEED chooses other moments; every test says with which seed its own come again.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from disturbed import (
    Workplace,
    assert_not_made_again,
    assert_nothing_left,
    chain,
    complete_files,
    faults_over_all_stages,
    until_complete,
)
from undisturbed_run import Undisturbed

SEED = int(os.environ.get("S2L_FAULTS_SEED", "0"))
pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]


def finish(undisturbed: Undisturbed) -> None:
    """The same command until it is complete; then nothing tells the run from the undisturbed one."""
    place = undisturbed.place
    before = complete_files(place.run)
    until_complete(place, "run", undisturbed.config)
    assert_not_made_again(before, place.run)
    undisturbed.assert_same(place.run)
    assert_nothing_left(place)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_been(
    undisturbed: Undisturbed, place: Workplace
) -> None:
    """Before, in and after the training of the proxy."""
    print(f"S2L_FAULTS_SEED={SEED} pytest {Path(__file__).name}")
    rng = random.Random(SEED)
    every = faults_over_all_stages(undisturbed.points, rng, max_delay=0.0)
    stages = [fault.place.split("/")[0] for fault in every]
    proxy, trajectories = stages.index("proxy"), stages.index("trajectories")
    faults = [rng.choice(part) for part in (every[:proxy], every[proxy:trajectories], every[trajectories:])]
    assert chain(place, faults, "run", undisturbed.config), "nothing was disturbed"
    finish(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(int(os.environ.get("S2L_FAULTS_ROUNDS", "1"))))
def test_kills_in_every_stage(undisturbed: Undisturbed, place: Workplace, number: int) -> None:
    """One at least in every stage and every phase of the trainings, on as few runs as that takes."""
    print(f"S2L_FAULTS_SEED={SEED + number} pytest {Path(__file__).name}")
    rng = random.Random(SEED + number)
    left = faults_over_all_stages(undisturbed.points, rng, max_delay=1.0)
    num_struck = num_runs = 0
    while left and num_runs < 5:
        struck = chain(place, left, "run", undisturbed.config)
        finish(undisturbed)
        place.delete_run()
        num_struck, num_runs = num_struck + len(struck), num_runs + 1
        left = [fault for fault in left if fault not in struck]
    print(f"{num_struck} kills on {num_runs} runs; not reached: {left}")
    assert num_struck >= 20
