"""Ways in from outside: what docs/extending.md shows is registered as it stands there, and runs end to end."""

from __future__ import annotations

import shutil

import pyarrow.parquet as pq
import pytest

import s2l_ray
from s2l_ray.config import load_config
from s2l_ray.errors import UserError
from s2l_ray.evaluation import metrics
from s2l_ray.reporting.gather import gather_facts
from s2l_ray.testing.quiet import Quiet
from s2l_ray.workflow import stages
from tests.support.docs import run_example


def test_a_stage_from_outside_is_built_once_and_skipped_after(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "_EXTRA", {})
    folder = shutil.copytree(finished.storage.local_path(), tmp_path / "run")
    config = load_config(finished.config.model_dump(mode="json") | {"run_dir": str(folder)})
    run_example("A stage")
    first = s2l_ray.run(config, progress=Quiet())
    stage = first.stage("lengths")
    assert not stage.reused
    assert all(one.reused for name, one in first.stages.items() if name != "lengths")
    tokens = first.stage("tokens").manifest
    mean = tokens.extra["num_tokens"] / tokens.row_counts["sequences"]
    assert stage.storage.read_json("lengths.json") == {"mean": mean}
    assert stage.manifest.extra["mean_tokens"] == mean
    assert s2l_ray.run(config, progress=Quiet()).stage("lengths").reused


def test_a_stage_that_could_never_be_built_is_refused(monkeypatch):
    monkeypatch.setattr(stages, "_EXTRA", {})
    with pytest.raises(UserError, match=r"after='tokenss' is not a stage .*name one of corpus, tokens"):
        stages.register_stage(lambda context: pytest.fail("built"), after="tokenss")


def test_a_metric_from_outside_decides_a_sweep_and_stands_in_its_table_and_in_the_report(
    finished_target, tmp_path, monkeypatch
):
    """The targets are there, and were evaluated before anybody knew the metric: nothing is done again."""
    table = dict(metrics._metrics())
    monkeypatch.setattr(metrics, "_metrics", lambda: table)
    run_example("A metric")
    folder = shutil.copytree(finished_target.storage.local_path(), tmp_path / "run")
    tree = finished_target.config.model_dump(mode="json") | {"run_dir": str(folder)}
    tree["sweep"] |= {"metric": "worst_source", "budgets": [0.3], "selectors": ["s2l"], "num_seeds": 1}
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/*/manifest.json")}
    result = s2l_ray.sweep(load_config(tree), progress=Quiet())
    assert not result.failed
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/*/manifest.json")} == before
    [line] = [line for line in result.lines if line.startswith("target: ")]
    assert line.startswith("target: loss of the hardest source (nats/token; lower is better) on “test”")
    rows = {(r["selector"], r["heldout_set"]): r for r in pq.read_table(folder / "sweep/results.parquet").to_pylist()
            if r["source"] is None}  # fmt: skip
    worst = {}
    for label, selector in (("full", "full"), ("s2l-0.3", "s2l")):
        for name, both in result.run.target(label).evaluation.items():
            worst[selector, name] = max(own["loss"] for own in both["after"]["per_source"].values())
            assert both["after"]["worst_source"] == pytest.approx(worst[selector, name])
    assert {which: row["worst_source"] for which, row in rows.items()} == pytest.approx(worst)
    assert {p["selector"]: p["mean"] for p in result.report["curves"]["target"]} == pytest.approx(
        {selector: worst[selector, "test"] for selector in ("full", "s2l")}
    )
    facts = gather_facts(result.run)
    assert facts.budgets is not None
    assert facts.worth is not None
    assert facts.budgets.metric.key == "worst_source"
    scores = {(s.label, s.heldout_set): s.estimate for s in facts.worth.scores if s.metric == "worst_source"}
    for label, selector in (("full", "full"), ("s2l-0.3", "s2l")):
        estimate = scores[label, "test"]
        assert estimate.value == pytest.approx(worst[selector, "test"])
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low < estimate.high
