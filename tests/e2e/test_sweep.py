"""Sweeps on real Ray: what one leaves, what a second one repeats, what is lost when drivers, workers and trials die."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ElementTree
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import ray
from ray.util.state import list_actors

from s2l_ray.api import sweep
from s2l_ray.artifacts.manifest import read_manifest
from s2l_ray.cli import main
from s2l_ray.config import load_config
from s2l_ray.testing.quiet import Quiet
from tests.support.sweep_run import manifests, swept, tree, values, wait_until

# tests/e2e/test_doors.py has a sweep of targets that are there, for everybody.
pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(900), pytest.mark.thorough]

UPSTREAM = ("corpus", "tokens", "proxy", "trajectories", "clusters")


# --- one sweep ------------------------------------------------------------------------------------------------------


def test_a_sweep_beyond_the_machine_ends_with_table_report_and_pictures(undisturbed_sweep):
    result, said = undisturbed_sweep
    assert "sweep.max_concurrent=99 is too many: 1 worker with 1 CPU each; available: 4 CPU" in said
    assert "[sweep] target: 5 trials; 3 at once" in said
    assert not result.failed
    assert len(list_actors(filters=[("class_name", "=", "ImplicitFunc")])) == 3, "a trial begins in another's process"
    folder = result.run.storage.local_path() / "sweep"
    table = pq.read_table(folder / "results.parquet")
    found = table.to_pylist()
    whole = [r for r in found if r["source"] is None]
    assert {(r["selector"], r["budget"]) for r in whole} == {
        ("full", 1.0), *((s, b) for s in ("s2l", "random") for b in (0.1, 0.3))
    }  # fmt: skip
    assert len(whole) == 5, "a row per trial and held-out set"
    sources = {r["source"] for r in found} - {None}
    assert len(sources) > 2
    assert len(found) == 5 * (1 + len(sources))
    for row in found:
        manifest = read_manifest(result.run.storage.sub(row["folder"]))
        assert manifest is not None
        evaluation = read_manifest(result.run.storage.sub(row["evaluation"]))
        assert evaluation is not None
        assert evaluation.inputs["target"] == manifest.content_fingerprint
        after = evaluation.extra["results"]["balanced"]
        summary = manifest.extra["summary"]
        expected = after["micro"] if row["source"] is None else after["per_source"][row["source"]]["loss"]
        assert row["loss"] == expected
        assert (row["steps"], row["tokens"]) == (summary["steps"], summary["tally"]["tokens"])
        assert (row["flops"], row["wall_seconds"]) == (summary["flops"], manifest.wall_seconds)
        if row["source"] is None:
            assert row["macro"] == after["macro"]
            assert [row["macro"]] == values(result)[row["selector"], row["budget"]]
            assert row["loss"] < row["loss_before"] - 0.5, "the target has learnt nothing"
    examples = result.run.stage("trajectories").manifest.row_counts["trajectories"]
    assert {(r["share"], r["num_examples"]) for r in whole} == {
        (n / examples, n) for n in (examples, int(examples * 0.1 + 0.5), int(examples * 0.3 + 0.5))
    }  # fmt: skip
    assert pyarrow.csv.read_csv(folder / "results.csv").num_rows == table.num_rows
    assert json.loads((folder / "report.json").read_text()) == result.report
    for name in ("budget", "cost", "sources"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
    assert any(str(folder) in line and "results.csv" in line for line in result.lines)


def test_a_sweep_leaves_no_working_state_and_holds_nothing(undisturbed_sweep):
    folder = undisturbed_sweep[0].run.storage.local_path()
    assert not (folder / "stage_locks").exists()
    assert not (folder / "sweep/ray_tune").exists()
    assert not list(folder.glob("target/*/ray_train"))
    wait_until(lambda: ray.available_resources().get("CPU") == 4, 60)


def test_stages_upstream_belong_to_the_run_and_their_cost_counts(undisturbed_sweep):
    result, _ = undisturbed_sweep
    index = json.loads(result.run.storage.read_bytes("run.json"))["stages"]
    assert set(UPSTREAM) <= set(index)
    seconds = [result.run.stage(n).manifest.device_seconds for n in UPSTREAM if n != "corpus"]
    assert result.report["cost"]["selection"]["device_seconds"] == pytest.approx(sum(seconds))
    targets = result.report["cost"]["targets"]["target"]
    assert targets["num"] == 5
    assert targets["flops"] > 0


def test_a_second_sweep_repeats_nothing_and_a_new_budget_adds_its_own_trials(undisturbed_sweep):
    """From the run's folder, as with --resume."""
    first, _ = undisturbed_sweep
    folder = first.run.storage.local_path()
    before = manifests(folder)
    started, again = time.monotonic(), Quiet()
    same = sweep(str(folder), progress=again)
    assert time.monotonic() - started < 60, "something was done again"
    assert "5 trials, 5 of them already done" in again.lines()
    assert "[sweep] target 1/" not in again.lines(), "Ray Tune started a trial"
    assert same.report == first.report
    more = Quiet()
    extended = sweep(str(folder), ["sweep.budgets=[0.1,0.2,0.3,1.0]", "sweep.selectors=[s2l]"], progress=more)
    assert "5 trials, 3 of them already done" in more.lines()
    assert {p: t for p, t in manifests(folder).items() if p in before} == before
    [new] = manifests(folder).keys() - before.keys()
    assert new.parent.name.startswith("s2l-0.2-"), "all of the data is the full data's trial"
    assert values(extended)["s2l", 1.0] == values(extended)["full", 1.0]
    assert {k: v for k, v in values(extended).items() if k in values(first)} == {
        k: v for k, v in values(first).items() if k[0] != "random"
    }  # fmt: skip


def test_hopeless_trials_are_stopped_or_named_and_the_others_go_on(trialless_copy, capsys):
    """ASHA sees the losses reported from inside the Train job; exit code 1 says that not everything was done.

    Whatever the processor: a norm that divides by 10⁸ leaves the loss where it is, and one that takes the root of a
    negative number has none. (A learning rate of 10⁶ is no such thing: on some the loss stays finite.)
    """
    epsilons = [1e-6, 1e16, -1.0]
    made = tree(
        trialless_copy, selectors=["s2l"], budgets=[0.1], full=False, max_concurrent=1,
        asha={"grace_steps": 5, "reduction_factor": 2}, parameters={"target.from_config.rms_norm_eps": epsilons},
    )  # fmt: skip
    made["target"]["evaluate_every_steps"] = 5
    config = trialless_copy.parent / "config.json"
    config.write_text(json.dumps(made))
    assert main(["sweep", str(config)]) == 1
    report = json.loads((trialless_copy / "sweep/report.json").read_text())
    assert report["stopped_early"] == ["s2l 0.1, seed 0, rms_norm_eps=1e+16"]
    [(failed, why)] = report["failed"].items()
    assert failed == "target: s2l 0.1, seed 0, rms_norm_eps=-1.0"
    assert why
    [best] = report["parameters"]
    assert best["parameters"] == {"target.from_config.rms_norm_eps": 1e-6}
    said = capsys.readouterr().out
    assert "after 5 steps (stopped early)" in said
    assert f"failed: {failed}: {why}" in said


# --- other ways to choose trials ------------------------------------------------------------------------------------


def test_the_smallest_budget_is_predicted_with_the_proxy_and_confirmed_with_the_target(undisturbed_sweep):
    """The target's trials are there: only the predicted ones are trained."""
    first, _ = undisturbed_sweep
    folder = first.run.storage.local_path()
    before = manifests(folder)
    result, said = swept(folder, find_smallest=True, selectors=["s2l"], within=0.02)
    assert "[sweep] predicted: 3 trials" in said
    assert "[sweep] target 1/" not in said
    assert len(manifests(folder).keys() - before.keys()) == 3
    predicted, target = values(result, "predicted"), values(result)
    assert set(predicted) == {("full", 1.0), ("s2l", 0.1), ("s2l", 0.3)}
    assert predicted["full", 1.0] != target["full", 1.0], "the same model was trained"
    full = target["full", 1.0][0]
    good = [b for b in (0.1, 0.3) if (values(first)["s2l", b][0] - full) / full <= 0.02]
    told = result.report["smallest"]["s2l"]
    assert (told["budget"] if told else None) == (min(good) if good else None)
    assert list(result.report["smallest"]) == ["s2l"]
    prediction = result.report["prediction"]
    assert prediction["points"] == len(target) >= 2
    assert prediction["largest_gap_to_full"] is not None
    assert any("prediction with the proxy's model" in line for line in result.lines)


@pytest.mark.slow
def test_a_bayesian_search_goes_on_where_it_ended(trialless_copy):
    """A range of learning rates, reports from inside the training on the way."""
    search: dict[str, Any] = {
        "selectors": ["s2l"], "budgets": [0.1], "full": False, "search": "optuna",
        "asha": {"grace_steps": 5, "reduction_factor": 2},
        "parameters": {"target.learning_rate": {"min": 1e-4, "max": 1e-2, "log": True}},
    }  # fmt: skip
    made = tree(trialless_copy, **search, num_samples=1)
    made["target"]["evaluate_every_steps"] = 5

    def run(num_samples: int) -> tuple[int, str]:
        made["sweep"]["num_samples"] = num_samples
        progress = Quiet()
        result = sweep(load_config(made), progress=progress)
        assert not result.failed
        return len(result.report["parameters"]) + len(result.report["stopped_early"]), progress.lines()

    assert run(1)[0] == 1
    before = manifests(trialless_copy)
    count, said = run(1)
    assert count == 1
    assert "optuna: 1 trials, 1 of them already done" in said
    assert "[sweep] target 1/" not in said, "Ray Tune started a trial"
    count, said = run(2)
    assert count == 2
    assert "optuna: 2 trials, 1 of them already done" in said
    assert {p: t for p, t in manifests(trialless_copy).items() if p in before} == before


@pytest.mark.slow
def test_a_random_search_ends_where_nothing_is_left_to_draw_and_equal_trials_are_trained_once(undisturbed_sweep):
    """Random subsets do not depend on the clusters: of the two trials side by side one waits and finds all done."""
    folder = undisturbed_sweep[0].run.storage.local_path()
    asked: dict[str, Any] = {
        "selectors": ["random"], "budgets": [0.05], "full": False, "search": "random",
        "parameters": {"clusters.num_clusters": [4, 8]},
    }  # fmt: skip
    before = manifests(folder)
    result, said = swept(folder, **asked, num_samples=9)
    assert "[sweep] target: 2 trials; 3 at once" in said
    assert not result.failed
    assert len(manifests(folder).keys() - before.keys()) == 1
    first, second = result.report["parameters"]
    assert first["values"] == second["values"]
    assert first["parameters"] != second["parameters"]
    _, again = swept(folder, **asked, num_samples=2)
    assert "2 trials, 2 of them already done" in again
    assert "[sweep] target 1/" not in again, "Ray Tune started a trial"


def test_settings_of_the_selection_retrain_no_proxy_and_nothing_that_is_the_same_without_them(undisturbed_sweep):
    """Eight clusters are the run's own, and random subsets do not depend on them: one of four trials is new."""
    folder = undisturbed_sweep[0].run.storage.local_path()
    proxy, before = {p: p.stat().st_mtime_ns for p in folder.glob("proxy/*/manifest.json")}, manifests(folder)
    result, _ = swept(folder, budgets=[0.1], full=False, parameters={"clusters.num_clusters": [4, 8]})
    assert not result.failed
    assert {p: p.stat().st_mtime_ns for p in folder.glob("proxy/*/manifest.json")} == proxy
    [new] = manifests(folder).keys() - before.keys()
    assert new.parent.name.startswith("s2l-0.1-")
    rows = pq.read_table(folder / "sweep/results.parquet").to_pylist()
    folders = {s: {r["folder"] for r in rows if r["selector"] == s} for s in ("s2l", "random")}
    assert {s: len(f) for s, f in folders.items()} == {"s2l": 2, "random": 1}
    assert len({r["trial"] for r in rows}) == 4
    assert result.report["cost"]["targets"]["target"]["num"] == 3
