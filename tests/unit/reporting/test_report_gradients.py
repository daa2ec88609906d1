"""The gradient check on the page: the figures and sentences of gradients.json, and a chart line for each."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from s2l_ray.artifacts.run import load_run
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_ids
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.parts import Drawing, Section
from s2l_ray.reporting.sections.gradients import gradients_section
from s2l_ray.reporting.svg import to_svg
from s2l_ray.reporting.write import facts_of
from s2l_ray.selection.gradient_verdict import verdict
from s2l_ray.stages.gradients.check import CheckSources, SubsetToCheck, check_gradients, read_sample
from s2l_ray.storage.folder import Storage
from tests.support.report_runs import MadeRun

STEPS = [("start", 0), ("last", 90)]
NOTE = "middle is skipped: the proxy's weights after step 45 were not kept"


def compared(made: MadeRun, folder: Path) -> dict[str, Any]:
    """Gradients that are alike within clusters once training has begun, and what the check says of them."""
    clusters, trajectories = (
        Storage.open(next((made.folder / kind).iterdir())) for kind in ("clusters", "trajectories")
    )
    ids, sample = read_sample(clusters, made.num_examples, 0)
    rng, gradients = np.random.default_rng(0), Storage.open(folder)
    for name, _ in STEPS:
        values = rng.standard_normal((len(ids), 32)) + 0.5
        if name == "last":
            values += 1.5 * rng.standard_normal((made.num_clusters, 32))[sample.clusters]
        columns = [pa.FixedSizeListArray.from_arrays(pa.array(one.astype(np.float32).reshape(-1)), one.shape[1])
                   for one in (values, values[:, :4])]  # fmt: skip
        table = pa.table([array_to_ids(ids), *columns], names=["example_id", "gradient", "embedding"])
        gradients.write_table(f"{name}/{part_name(0)}", table)
    sources = CheckSources(gradients, STEPS, 1, clusters, trajectories, made.parts, made.num_examples, 0)
    subsets = {
        label: SubsetToCheck(Storage.open(next((made.folder / "subset").glob(f"{label}-*"))), is_s2l, not is_s2l)
        for label, is_s2l in (("s2l-0.2", True), ("random-0.2", False))
    }
    return {"version": 1, "kind": "head", **check_gradients(sources, subsets, 0), "notes": [NOTE]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Facts, Section, dict[str, Any]]:
    """The run's facts, the section of its page, and gradients.json."""
    root = tmp_path_factory.mktemp("gradients")
    made = MadeRun(root / "run", num_examples=300, num_clusters=4, topics=("add",), targets=(), heldout={})
    made.make()
    result = compared(made, root / "made")
    inputs = {"tokens": made.token_content, "proxy": made.proxy, "clusters": made.cluster_content}
    extra = {"kind": "head", "snapshots": STEPS, "num_examples": 300, "dim": 32, "num_chunks": 1}
    files: dict[str, Any] = {
        name: Storage.open(root / "made").read_table(name) for name in (f"{one}/{part_name(0)}" for one, _ in STEPS)
    }
    settings = {"num_examples": 300, "seed": 0}
    content = made.stage("gradients", "gradients", inputs, {"examples": 300}, extra, files, settings)
    extra = {"kind": "head", "snapshots": STEPS, "subsets": [], "verdict": result["verdict"]}
    made.stage("gradient-check", "gradient-check", {"gradients": content}, {}, extra, {"gradients.json": result})
    facts = facts_of(load_run(str(made.folder)))
    section = gradients_section(facts, Drawing(facts, to_svg))
    assert section is not None
    return facts, section, result


@pytest.mark.thorough
def test_facts_are_those_of_the_check(whole: tuple[Facts, Section, dict[str, Any]]) -> None:
    facts, _, result = whole
    assert facts.gradients is not None
    told = facts.plain()["gradients"]
    for one, expected in zip(told["snapshots"], result["snapshots"], strict=True):
        assert one["errors"] == expected["errors"]
        assert one["similarity"]["clusters"]["difference"] == expected["similarity"]["clusters"]["difference"]
    assert told["verdict"] == result["verdict"]


def test_the_section_says_what_was_found(whole: tuple[Facts, Section, dict[str, Any]]) -> None:
    _, section, result = whole
    assert "of 300 of 300 examples" in section.how
    assert "Middle is skipped: the proxy's weights after step 45 were not kept." in section.how
    similar, errors = section.figures
    assert similar.caption == result["verdict"][0]
    assert similar.caption.startswith("Gradients of one cluster are no more similar than chance allows (before ")
    assert errors.caption == " ".join(result["verdict"][1:]).replace("s2l-0.2", "S2L 20\u00a0%")
    last = result["snapshots"][1]
    assert similar.table is not None
    assert errors.table is not None
    ratio, difference = last["errors"]["s2l-0.2"]["weighted_by_random"], last["similarity"]["clusters"]["difference"]
    for table, one in ((errors.table, ratio), (similar.table, difference)):
        assert f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})" in {
            cell for row in table.rows for cell in row
        }


def test_charts_have_a_line_for_each_figure(whole: tuple[Facts, Section, dict[str, Any]]) -> None:
    _, section, result = whole
    similar, errors = section.figures
    assert errors.panels == ["as chosen", "with weights"]
    words = r'data-tip="[^"]*, (?:strongly|moderately|weakly|not|less|better|worse|level)"'
    lines = [len(re.findall(words, svg)) for svg in (*similar.svgs, *errors.svgs)]
    assert lines == [sum(len(one["similarity"]) for one in result["snapshots"]), len(STEPS), len(STEPS)]


def test_a_run_without_a_check_has_no_section(whole: tuple[Facts, Section, dict[str, Any]]) -> None:
    facts = dataclasses.replace(whole[0], gradients=None)
    assert gradients_section(facts, Drawing(facts, to_svg)) is None


def test_subsets_that_could_not_be_compared_are_spoken_of(whole: tuple[Facts, Section, dict[str, Any]]) -> None:
    facts, _, _ = whole
    assert facts.gradients is not None
    flat = [dataclasses.replace(one, errors={}) for one in facts.gradients.snapshots]
    gradients = dataclasses.replace(facts.gradients, snapshots=flat, verdict=verdict(flat, has_subsets=True))
    facts = dataclasses.replace(facts, gradients=gradients)
    section = gradients_section(facts, Drawing(facts, to_svg))
    assert section is not None
    [similar] = section.figures
    assert similar.caption.endswith("cannot be distinguished from zero, so no subset is compared with it.")
