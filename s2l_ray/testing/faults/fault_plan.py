"""Faults, and their choice by a seed."""

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
"""Role of the process that reaches a fault point → what may be killed then. `self` is that process, `worker` one of Ray
Train's workers; the role `alone` is the only worker of a training, in a task."""
SURVIVED = ("self", "worker", "workers", "controller", "controller and workers")
"""Victims that are replaced, so that the command itself continues."""


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
"""Number of file operations of an undisturbed run at each point, in the order of the first one."""

STAGES = ("corpus", "tokens", "proxy", "trajectories", "clusters", "subset", "heldout", "target",
          "heldout_evaluation")  # fmt: skip


def read_points(record: Path) -> Points:
    counts: Counter[Point] = Counter()
    for line in record.read_text().splitlines():
        role, place = line.split(" ", 1)
        counts[role, place] += 1
    return dict(counts)


def fault_at(points: Points, at: Point, rng: random.Random, max_delay: float, victims: Sequence[str] = ()) -> Fault:
    """Choose a fault at a random moment of a point, delayed by at most `max_delay` seconds, with one of `victims`."""
    role, place = at
    delay = min(rng.choice((0.0, rng.uniform(0, 0.05), rng.uniform(0, max_delay))), max_delay)
    victim = rng.choice(victims or VICTIMS_BY_ROLE[role])
    return Fault(place, role, rng.randint(1, points[at]), round(delay, 3), victim)


def _section_of(place: str) -> str:
    """Return the section of a run that is to be hit once: a stage, or a phase of a stage that trains."""
    stage = "/".join(place.split("/")[:2])
    return place if stage.split("/")[0] in ("proxy", "target") else stage


def few_faults(points: Points, rng: random.Random) -> list[Fault]:
    """Choose faults of a training, a task, and the driver or the whole process tree, each in a different stage, so that
    every stage begins undisturbed and certainly reaches its fault."""
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
    """Choose one fault in every section, in the order in which a run reaches them."""
    sections: dict[str, list[Point]] = {}
    for role, place in points:
        if place not in STAGES:  # their folder is made
            sections.setdefault(_section_of(place), []).append((role, place))
    return [fault_at(points, rng.choice(places), rng, max_delay) for places in sections.values()]
