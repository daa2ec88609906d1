"""`s2l evaluate`, killed with all its processes while parts of answers are there and others are not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import s2l_ray
from s2l_ray.artifacts.run import Run
from s2l_ray.testing.faults.disturbed import Workplace, assert_nothing_left, chain, differences, workplace
from s2l_ray.testing.faults.fault_plan import Fault
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import write_jsonl
from tests.support.answering_model import questions

NUM, PER_PART = 64, 16
PARTS = [f"{kind}-{part:05d}.parquet" for kind in ("cot", "pot") for part in range(NUM // PER_PART)]
IN_THE_FALLBACK = Fault("generation/*/generations", "task", 8, 0.0, "tree")
"""Of the second part: its programs have run, and the chains of thought of those that failed are not written."""
BEFORE_PROGRAMS = Fault("generation/*/programs", "task", 4, 0.0, "tree")
"""Of the second part, whose texts are there."""
AGAIN = Fault("generation/*/generations", "task", 3, 0.0, "tree")
"""In the command that goes on after the latter: the second part is complete, and the third has begun."""
JUDGING = Fault("evaluation/*", "driver", 2, 0.0, "tree")
"""All texts are there."""


@pytest.fixture
def place(finished: Run) -> Iterator[Workplace]:
    """With a copy of the shared run, and nothing evaluated."""
    with workplace() as place:
        shutil.copytree(finished.storage.local_path(), place.run)
        yield place


@pytest.mark.thorough
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param([IN_THE_FALLBACK], id="once"),
        pytest.param([BEFORE_PROGRAMS, AGAIN, JUDGING], id="again-and-again", marks=pytest.mark.slow),
    ],
)
def test_killed_while_evaluating_it_ends_in_the_same_texts(
    place: Workplace, answering_model: Path, kills: list[Fault]
) -> None:
    mine = write_jsonl(place.base / "mine.jsonl", questions(NUM))
    changes = [
        f"evaluation.custom.mine={{files: [{mine}], rule: number, group_by: [kind], max_new_tokens: 24}}",
        f"evaluation.generation.questions_per_part={PER_PART}", "evaluation.sandbox.seconds=60",
        "resources.evaluation.workers=1", "resources.evaluation.cpus_per_worker=1",
    ]  # fmt: skip
    unbroken = place.base / "unbroken"
    shutil.copytree(place.run, unbroken)
    asked = (str(unbroken), None, ["mine"], changes)
    s2l_ray.evaluate(*asked, form="hybrid", model=str(answering_model), progress=Quiet())

    command: list[str | Path] = ["evaluate", place.run, *changes, "--tasks", "mine", "--form", "hybrid"]
    command += ["--model", answering_model]
    kept: dict[Path, tuple[int, int]] = {}
    for fault in kills:
        assert chain(place, [fault], *command) == [fault]
        there = texts_and_programs(place.run)
        assert kept.items() <= there.items(), "what the command before had written was made again"
        assert len(kept) < len(there), "it has not gone on"
        is_complete = bool(list(place.run.glob("generation/*/manifest.json")))
        assert is_complete == (fault is JUDGING)
        assert is_complete or sum(path.parent.name == "generations" for path in there) < len(PARTS)
        kept = there
    outcome = place.s2l(*command)
    assert outcome.code == 0, outcome.output
    assert kept.items() <= texts_and_programs(place.run).items(), "parts that were there were generated again"

    told = differences(made_of(place.run), made_of(unbroken))
    assert not told, told
    assert sorted(path.name for path in place.run.glob("generation/*/generations/*")) == PARTS
    assert_nothing_left(place)


def texts_and_programs(run: Path) -> dict[Path, tuple[int, int]]:
    """Every whole file, with what changes when it is written again."""
    files = [*run.glob("generation/*/generations/*"), *run.glob("generation/*/programs/*")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files if path.name[0] != "."}


def made_of(run: Path) -> dict[str, object]:
    """Bytes of all texts, verdicts and reports; of programs everything but how long they took."""
    files = [path for kind in ("generation", "evaluation") for path in run.glob(f"{kind}/*-mine-*/**/*")]
    made: dict[str, object] = {}
    for path in sorted(path for path in files if path.is_file() and path.name != "manifest.json"):
        name = path.relative_to(run).as_posix()
        is_program = path.parent.name == "programs"
        made[name] = pq.read_table(path).drop_columns("seconds").to_pylist() if is_program else path.read_bytes()
    return made
