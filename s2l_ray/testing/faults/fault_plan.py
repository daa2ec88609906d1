"""Which faults there are, and which of them a seed chooses."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VICTIMS_BY_ROLE = {
    "driver": ("tree", "driver", "SIGTERM", "SIGINT"),
    "task": ("self", "tree", "driver", "raylet", "gcs"),
    "train": ("self", "worker", "workers", "controller", "controller and workers", "tree", "driver", "raylet", "gcs"),
    "controller": ("self", "workers", "tree", "driver"),
    "alone": ("self", "tree", "driver", "raylet", "gcs"),
    "kmeans": ("self", "tree", "driver", "raylet", "gcs"),
    "trial": ("self", "tree", "driver"),
}
"""Who comes to a fault point → what may be killed then. `self`: that process. `worker`: one of Ray Train's;
`alone` is the only one of a training, in a task."""
SURVIVED = ("self", "worker", "workers", "controller", "controller and workers")
"""They are replaced: the command itself goes on."""


@dataclass(frozen=True)
class Fault:
    """At the `nth` file operation of processes of `role` at `place`, and `delay` seconds later, `victim` is killed."""

    place: str
    role: str
    nth: int
    delay: float
    victim: str

    @property
    def stage(self) -> str:
        return self.place.split("/")[0]


Point = tuple[str, str]
"""(role, place)"""
Points = dict[Point, int]
"""How many file operations an undisturbed run did there, in the order of their first."""

STAGES = ("corpus", "tokens", "proxy", "trajectories", "clusters", "subset", "heldout", "target",
          "heldout_evaluation")  # fmt: skip


def read_points(record: Path) -> Points:
    counts: Counter[Point] = Counter()
    for line in record.read_text().splitlines():
        role, place = line.split(" ", 1)
        counts[role, place] += 1
    return dict(counts)


def fault_at(points: Points, at: Point, rng: random.Random, max_delay: float, victims: Sequence[str] = ()) -> Fault:
    """At a random moment there, or at most so many seconds later; of `victims`, or whatever may be killed there."""
    role, place = at
    delay = min(rng.choice((0.0, rng.uniform(0, 0.05), rng.uniform(0, max_delay))), max_delay)
    victim = rng.choice(victims or VICTIMS_BY_ROLE[role])
    return Fault(place, role, rng.randint(1, points[at]), round(delay, 3), victim)


def _section_of(place: str) -> str:
    """What is to be hit once: a stage; of those that train, each of their phases."""
    stage = "/".join(place.split("/")[:2])
    return place if stage.split("/")[0] in ("proxy", "target") else stage


def few_faults(points: Points, rng: random.Random) -> list[Fault]:
    """Of a training, of a task, and of the driver or all there is; each in another stage, so that it begins
    undisturbed and comes to its fault for certain."""
    left = set(STAGES)

    def one(roles: Sequence[str], victim: str, max_delay: float = 0.0) -> Fault:
        there = [at for at in points if at[0] in roles and at[1].split("/")[0] in left]
        fault = fault_at(points, rng.choice(sorted(there)), rng, max_delay, [victim])
        left.remove(fault.stage)
        return fault

    faults = [
        one(["alone"], "self"),
        one(["task"], "self"),
        one(["driver", "task", "kmeans", "alone"], rng.choice(["tree", "driver"]), max_delay=0.2),
    ]
    order = list(points)
    return sorted(faults, key=lambda fault: order.index((fault.role, fault.place)))


def faults_over_all_stages(points: Points, rng: random.Random, max_delay: float) -> list[Fault]:
    """One in every section, in the order in which a run comes to them."""
    sections: dict[str, list[Point]] = {}
    for role, place in points:
        if place not in STAGES:  # their folder is made
            sections.setdefault(_section_of(place), []).append((role, place))
    return [fault_at(points, rng.choice(places), rng, max_delay) for places in sections.values()]
