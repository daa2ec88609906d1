"""`s2l select`, `s2l finetune` and `s2l sweep`, killed at seeded random moments."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

import s2l_ray
from s2l_ray.artifacts.run import load_run
from s2l_ray.testing.faults.disturbed import (
    Workplace,
    assert_not_made_again,
    assert_nothing_left,
    chain,
    complete_files,
    contents,
    differences,
)
from s2l_ray.testing.faults.fault_plan import fault_at, faults_over_all_stages, read_points
from s2l_ray.testing.quiet import Quiet
from tests.support.undisturbed_run import SUBSET, Undisturbed

SEED = int(os.environ.get("S2L_FAULTS_SEED", "0"))
BUDGETS = tuple(range(20, 30))
# Slow: ten minutes and more; test_kills.py has the thorough form.
pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.fixture
def copied(undisturbed: Undisturbed, place: Workplace) -> Workplace:
    """The undisturbed run, finished, under the path of all."""
    print(f"S2L_FAULTS_SEED={SEED}")
    shutil.copytree(undisturbed.run, place.run)
    return place


def renew(undisturbed: Undisturbed, place: Workplace) -> None:
    place.delete_run()
    shutil.copytree(undisturbed.run, place.run)


def test_ten_selects_at_once_of_which_half_are_killed(undisturbed: Undisturbed, copied: Workplace) -> None:
    """All ten are in the run in the end, each as if it had been alone."""
    record = copied.base / "points-select.txt"
    first = copied.s2l("select", copied.run, "--budget", str(BUDGETS[0]), record=record)
    assert first.code == 0, first.output
    for budget in BUDGETS[1:]:
        s2l_ray.select(str(copied.run), budget, progress=Quiet())
    alone = contents(copied.run)
    renew(undisturbed, copied)

    rng = random.Random(SEED)
    points = {
        (role, f"subset/s2l-*/{place.rpartition('/')[2]}" if place.startswith("subset/") else place): count
        for (role, place), count in read_points(record).items()
    }
    commands = {f"select{b}": ("select", copied.run, "--budget", str(b)) for b in BUDGETS}
    faults = {name: (fault_at(points, rng.choice(list(points)), rng, 0.1),) for name in rng.sample(list(commands), 5)}
    for attempt in range(2 * len(BUDGETS)):  # who waits for the others in vain is refused, and comes again
        before = complete_files(copied.run)
        outcomes = copied.at_once(commands, faults)
        print(f"attempt {attempt}", {name: (o.code, o.struck) for name, o in outcomes.items()})
        assert_not_made_again(before, copied.run)
        assert all("Traceback" not in outcome.output for outcome in outcomes.values()), outcomes
        commands = {name: commands[name] for name, outcome in outcomes.items() if outcome.code != 0}
        faults = {name: fault for name, fault in faults.items() if name in commands and not outcomes[name].struck}
        if not commands:
            break
    assert not commands
    assert set(load_run(str(copied.run)).subsets) == {SUBSET, *(f"s2l-{b}" for b in BUDGETS)}
    told = differences(contents(copied.run), alone)
    assert not told, told[:20]
    assert_nothing_left(copied)


@pytest.mark.parametrize("command", ["finetune", "sweep"])
def test_a_killed_fine_tuning_or_sweep(undisturbed: Undisturbed, copied: Workplace, command: str) -> None:
    """From the finished run, in as many kills as there are stages and phases to come."""
    arguments: tuple[str | Path, ...] = ("sweep", undisturbed.config)
    if command == "finetune":
        arguments = ("finetune", copied.run, "--subset", "random-0.3")
    record = copied.base / f"points-{command}.txt"
    before = complete_files(copied.run)
    first = copied.s2l(*arguments, record=record)
    assert first.code == 0, first.output
    assert_not_made_again(before, copied.run)
    alone = contents(copied.run)
    renew(undisturbed, copied)

    rng = random.Random(SEED)
    new = {point: count for point, count in read_points(record).items() if not (undisturbed.run / point[1]).is_dir()}
    struck = chain(copied, faults_over_all_stages(new, rng, max_delay=1.0), *arguments)
    assert len(struck) > 3
    before = complete_files(copied.run)
    last = copied.s2l(*arguments)
    assert last.code == 0, last.output
    assert_not_made_again(before, copied.run)
    told = differences(contents(copied.run), alone)
    assert not told, told[:20]
    assert_nothing_left(copied)
