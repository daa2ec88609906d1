"""A sweep's pictures and end table: with intervals, with the zone that is good enough, and never in its way."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from s2l_ray.artifacts.file_record import RESULTS_RECORD, FileRecord
from s2l_ray.artifacts.outputs import list_outputs
from s2l_ray.artifacts.run import load_run
from s2l_ray.errors import UserError
from s2l_ray.evaluation.metrics import get_metric
from s2l_ray.reporting import sweep_results
from s2l_ray.reporting.charts import sweep as charts
from s2l_ray.reporting.sweep_results import curve_lines, present_sweep
from s2l_ray.reporting.sweeps import budgets_of, read_sweep
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import DamagedFile
from s2l_ray.sweeps.run import _presented
from tests.support.report_runs import MadeRun


@pytest.fixture(scope="module")
def swept(tmp_path_factory: Any) -> MadeRun:
    labels = [f"{selector}-{budget}" for selector in ("s2l", "random") for budget in (0.1, 0.2)]
    made = MadeRun(tmp_path_factory.mktemp("pictures") / "run", budgets=(0.1, 0.2), targets=("full", *labels),
                   seeds=(0, 1), num_examples=400, gains={"s2l-0.2": 0.25, "s2l-0.1": -0.3})  # fmt: skip
    made.make()
    made.sweep()
    return made


def opened(made: MadeRun) -> tuple[Any, pa.Table, dict[str, Any]]:
    run = load_run(str(made.folder))
    return run, run.storage.read_table("sweep/results.parquet"), run.storage.read_json("sweep/report.json")


def texts(svg: bytes) -> set[str]:
    return {"".join(e.itertext()) for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")}


@pytest.mark.thorough
def test_pictures_are_written_in_both_formats_with_title_legend_and_units(swept):
    pictures, _ = present_sweep(*opened(swept))
    assert sorted(pictures) == sorted(f"{n}.{k}" for n in ("budget", "cost", "sources") for k in ("png", "svg"))
    for name, content in pictures.items():
        if name.endswith(".png"):
            assert content.startswith(b"\x89PNG")
            continue
        shown = texts(content)
        assert {"full data", "S2L", "random"} <= shown, name
        assert any("“balanced”" in text for text in shown)
        assert any("lower is better" in text or "nats/token" in text for text in shown)
    assert {"books", "forms", "puzzles"} <= texts(pictures["sources.svg"])


def test_the_zone_that_is_good_enough_is_drawn(swept):
    run, table, report = opened(swept)
    budgets = budgets_of(run, table.to_pylist(), report | {"within": 0.07})
    assert budgets is not None
    spec = charts.budget(budgets, "balanced").to_dict()
    edges = [row for layer in spec["layer"] for row in layer["data"]["values"] if "from" in row]
    assert [edge["to"] for edge in edges] == [pytest.approx(107)]


def test_intervals_are_those_of_the_trials_examples_and_not_standard_deviations_over_seeds(swept):
    run, table, report = opened(swept)
    budgets = budgets_of(run, table.to_pylist(), report)
    assert budgets is not None
    points = [p for p in budgets.points if p.heldout_set == "balanced" and p.selector != "full"]
    for point in points:
        assert point.estimate.low is not None
        assert point.estimate.high is not None
        label = f"{point.selector}-{round(point.share, 3)}"
        losses = np.mean([swept.evaluated[label, seed, "balanced"][0] for seed in (0, 1)], axis=0)
        assert point.estimate.high - point.estimate.low == pytest.approx(
            2 * 1.96 * losses.std() / np.sqrt(len(losses)), rel=0.4
        )
    for source in budgets.sources:
        assert source.estimate.low is not None
        assert source.estimate.high is not None
        assert source.estimate.low < source.estimate.value < source.estimate.high


def test_the_end_table_tells_apart_only_what_intervals_do(swept):
    run, table, report = opened(swept)
    budgets = budgets_of(run, table.to_pylist(), report)
    assert budgets is not None
    lines = curve_lines(budgets)
    assert "95 % intervals over examples and 2 seeds" in " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= 88
    row = {" ".join(line.split()[:2]): line for line in lines[2:]}
    assert "better" in row["s2l 20"]
    assert row["s2l 10"].count("worse") == 2
    assert "not told apart" in row["random 10"]


@pytest.mark.thorough
@pytest.mark.parametrize("metric", ["exact_match", "micro"])
def test_every_metric_has_its_pictures(swept, metric):
    run, table, report = opened(swept)
    pictures, lines = present_sweep(run, table, report | {"metric": metric})
    assert "budget.svg" in pictures
    assert get_metric(metric).label in lines[0]


@pytest.mark.thorough
def test_without_full_data_or_with_one_subset_there_is_what_there_is(swept):
    run, table, report = opened(swept)
    rows = table.to_pylist()
    bare = pa.Table.from_pylist([r for r in rows if r["selector"] != "full"], schema=table.schema)
    pictures, lines = present_sweep(run, bare, report)
    assert "cost.svg" in pictures
    assert lines
    alone = pa.Table.from_pylist([r for r in rows if r["trial"] == "s2l-0.1"], schema=table.schema)
    assert present_sweep(run, alone, report) == ({}, [])


def test_what_keeps_pictures_from_being_drawn_is_said_and_ends_no_sweep(swept, tmp_path, monkeypatch):
    def fail(*_: Any) -> Any:
        raise UserError("no\nluck")

    run, table, report = opened(swept)
    out = Storage.open(str(tmp_path))
    files, [line] = _presented(run, table, report, fail, out)
    assert files == []
    assert line.endswith("no\\nluck")
    monkeypatch.setitem(__import__("s2l_ray.reporting.write", fromlist=["x"])._LIBRARIES, "no_such_module", "altair")
    files, [line] = _presented(run, table, report, present_sweep, out)
    assert 'pip install "s2l_ray[report]"' in line
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.thorough
def test_pictures_are_the_same_again(swept):
    first, second = (sweep_results.sweep_pictures("x", _budgets(swept)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", ["results.parquet", "report.json"])
def test_changed_results_are_not_reported(swept, tmp_path, name):
    shutil.copytree(swept.folder, tmp_path / "run")
    run = load_run(str(tmp_path / "run"))
    folder = run.storage.sub("sweep")
    folder.write_bytes("cost.png", b"a picture")
    FileRecord({}, list_outputs(folder)).write(folder, RESULTS_RECORD)
    folder.delete("cost.png")  # the report does not read it
    before = read_sweep(run)
    assert before is not None
    content = folder.read_bytes(name)
    folder.write_bytes(name, content.replace(b"0.", b"1.", 1) if name == "report.json" else content[:-9] + content[-8:])
    assert folder.read_bytes(name) != content
    with pytest.raises(DamagedFile, match=rf"{name} in .* The same `s2l sweep` again rewrites the sweep's results"):
        read_sweep(run)
    folder.delete(RESULTS_RECORD)  # as while they are being rewritten
    folder.write_bytes(name, content)
    assert read_sweep(run) == before


def _budgets(made: MadeRun) -> Any:
    run = load_run(str(made.folder))
    found = read_sweep(run)
    assert found is not None
    return budgets_of(run, *found)
