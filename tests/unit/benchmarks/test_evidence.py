"""`benchmarks/evidence.py` at a size at which its figures say nothing: rows that are there, other settings, wrong
answers, intervals; and that the manual's page is what its rows make."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.support.paths import ROOT

MATHS = [
    {"id": f"{source}-{i}", "source": source, "topic": "sums", "instruction": f"What is {i} + {of}?",
     "output": f"{i} + {of} = {i + of}."}
    for i in range(60) for of, source in enumerate(("small", "large"))
]  # fmt: skip


@pytest.fixture(scope="module")
def programs() -> Iterator[Any]:
    """`programs(name)`: a module of benchmarks/, which is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module


@pytest.fixture(scope="module")
def maths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl and eval/, in the shape of the six sets."""
    folder = tmp_path_factory.mktemp("maths")
    folder.joinpath("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in MATHS))
    folder.joinpath("eval").mkdir()
    for name in ("svamp", "simuleq"):
        rows = [{"question": f"What is {i} + 7?", "answer": str(i + 7)} for i in range(5)]
        folder.joinpath(f"eval/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


@pytest.fixture(scope="module")
def evidence(programs, maths: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModuleType, list[str], Path]:
    """The program, the arguments of a comparison, and its rows after half of it and a torn line."""
    program, work = programs("evidence"), tmp_path_factory.mktemp("evidence")
    arguments = [
        "--maths", str(maths / "train.jsonl"), "--quickstart-examples", "200", "--maths-examples", "60", "--seeds", "0",
        "--wrong", "0.1", "--budgets", "0.2", "--snapshots", "2", "--work", str(work), "--rows", str(work / "rows"),
        "--set", "target.max_steps=2", "proxy.max_steps=2", "trajectories.num_snapshots=2", "clusters.num_clusters=4",
    ]  # fmt: skip
    program.main([*arguments, "--corpora", "quickstart", "--selectors", "random", "s2l"])
    with work.joinpath("rows").open("a") as file:
        file.write('{"corpus": "maths", "se')
    return program, arguments, work / "rows"


@pytest.mark.thorough
def test_arms_that_are_done_are_not_made_again_and_a_torn_line_harms_none(evidence, capsys):
    program, arguments, path = evidence
    before = path.read_text()
    own = ["everything", "s2l", "random", "rds_plus", "confidence_curriculum", "random, S2L's cost in further steps"]
    program.main([*arguments, "--selectors", *own])
    after = path.read_text()
    assert after.startswith(before + "\n")
    rows = program.earlier_rows(path)
    keys = [program.key_of(row) for row in rows]
    assert len(keys) == len(set(keys)) == 2 * 8  # s2l has two variants
    made = [row["arm"] for row in rows if row["corpus"] == "maths"]
    main = [arm for arm in made if arm in program.MAIN]
    assert set(main) == {"everything", "random", "s2l", "s2l, α ½"}
    assert made[: len(main)] == main, "what matters most comes first"
    assert "## A mixture of six maths sources" in capsys.readouterr().out
    program.main([*arguments, "--selectors", *own])
    assert path.read_text() == after


@pytest.mark.thorough
def test_costs_are_of_what_a_selector_reads(evidence):
    program, _, path = evidence
    rows = {(row["corpus"], row["arm"]): row for row in program.earlier_rows(path)}
    s2l, random = rows["quickstart", "s2l"], rows["quickstart", "random"]
    longer = rows["quickstart", "random, S2L's cost in further steps"]
    assert random["selection_flops"] == 0 < s2l["selection_flops"]
    spent = (longer["training_flops"] - random["training_flops"]) / s2l["selection_flops"]
    assert spent == pytest.approx(1, rel=0.4)  # whole steps
    assert all(row["steps"] == 2 for row in rows.values() if row is not longer and "further" not in row["arm"])
    assert rows["maths", "everything"]["wrong"] == pytest.approx(0.1)


@pytest.mark.thorough
def test_a_proxy_that_was_scored_for_other_references_is_not_reused(evidence):
    program, arguments, path = evidence
    chosen = [*arguments, "--corpora", "quickstart", "--selectors", "least_confidence"]
    for references in (["early"], ["late"], ["early", "late"]):
        program.main([*chosen, "--references", *references])
    arms = [row["arm"] for row in program.earlier_rows(path) if row["arm"].startswith("least_confidence")]
    assert sorted(arms) == ["least_confidence", "least_confidence, early"]


@pytest.mark.thorough
def test_rows_of_other_settings_are_left_alone(evidence):
    program, _, path = evidence
    other = program.earlier_rows(path, {"quickstart": {"examples": 7}, "maths": {}})
    assert other == []
    [*fields] = program.earlier_rows(path)[0]["settings"]
    assert {"examples", "snapshots", "set"} <= set(fields)
    assert "target.max_steps=2" in program.earlier_rows(path)[0]["settings"]["set"]


def test_wrong_answers_are_other_answers_of_the_same_source(programs):
    swapped = programs("comparison.corpora").swapped(MATHS, 0.25, seed=3)
    wrong = [(old, new) for old, new in zip(MATHS, swapped, strict=True) if new["is_wrong"]]
    assert len(wrong) == round(0.25 * len(MATHS))
    answers = {row["output"]: row["source"] for row in MATHS}
    for old, new in wrong:
        assert new["output"] != old["output"]
        assert answers[new["output"]] == old["source"]
    assert all(new["output"] == old["output"] for old, new in zip(MATHS, swapped, strict=True) if not new["is_wrong"])
    assert [row["is_wrong"] for row in programs("comparison.corpora").swapped(MATHS, 0.25, seed=4)] != [
        row["is_wrong"] for row in swapped
    ]


def test_differences_are_paired_and_have_students_interval(programs):
    statistics = programs("comparison.statistics")
    pairs = [(1.0, 0.9), (2.0, 1.8), (3.0, 2.7)]  # differences .1 .2 .3: mean .2, deviation .1
    found = statistics.paired_difference(pairs)
    assert found.mean == pytest.approx(0.2)
    assert found.half_width == pytest.approx(4.303 * 0.1 / np.sqrt(3))
    assert statistics.signed(found, 2) == "+0.20 [-0.05, +0.45]"
    assert statistics.signed(statistics.paired_difference([(1, 0.5), (1, 0.4), (1, 0.6)]), 1).startswith("**+0.5")
    assert statistics.signed(statistics.paired_difference([(1, 0.5)]), 1) == "+0.5"


def test_the_manuals_page_is_what_its_rows_make(programs):
    program = programs("evidence")
    assert program.page(program.earlier_rows(program.ROWS)) == (ROOT / "docs/evidence.md").read_text(encoding="utf-8")


def test_pictures_divide_by_random_and_leave_out_what_has_few_seeds(programs):
    rows = [
        {"corpus": "quickstart", "seed": seed, "wrong_answers": 0.0, "arm": arm, "budget": 0.2,
         "settings": {"set": [1]}, "balanced_loss": loss * (1 + seed), "distributed_loss": loss}
        for arm, loss, seeds in (("random", 2.0, 3), ("s2l", 1.5, 3), ("ifd", 30.0, 3), ("forgetting", 1.0, 2))
        for seed in range(seeds)
    ]  # fmt: skip
    drawn = programs("comparison.evidence_pictures")
    found = {one["arm"]: one for one in drawn.relative(rows, "balanced_loss")}
    assert {arm: (one["n"], one["ratio"]) for arm, one in found.items()} == {
        "random": (3, 1), "s2l": (3, pytest.approx(0.75)), "ifd": (3, pytest.approx(15))
    }  # fmt: skip
    pictures = drawn.pictures(rows)
    assert list(pictures) == ["evidence_quickstart_selectors"]
    text = json.dumps(pictures)
    assert '"name": "ifd"' in text
    assert "forgetting" not in text
    assert '"ratio": 8.0' in text


def test_the_manual_has_the_pictures_that_its_rows_make(programs):
    program = programs("evidence")
    names = programs("comparison.evidence_pictures").pictures(program.earlier_rows(program.ROWS))
    page = (ROOT / "docs/evidence.md").read_text(encoding="utf-8")
    for name in names:
        for scheme in ("light", "dark"):
            assert f'"{name}_{scheme}.svg"' in page
            assert (ROOT / f"docs/{name}_{scheme}.svg").read_text().startswith("<svg")
    assert page.count("<picture>") == len(names)
