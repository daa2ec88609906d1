"""Which trials a sweep has, which sweeps are refused, and how many trials run at once."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from s2l_ray.cli import main
from s2l_ray.config import load_config
from s2l_ray.execution.placement import Placement
from s2l_ray.sweeps.run import predicting
from s2l_ray.sweeps.trials import FULL, Trial, check_trials, could_propose, grid, num_possible
from s2l_ray.sweeps.tune import concurrency, draw
from tests.support.sweep_config import RATES, config, tree

# --- trials ---------------------------------------------------------------------------------------------------------


def test_a_grid_is_the_full_data_once_a_seed_and_every_combination():
    trials = grid(config(selectors=["s2l", "random"]))
    assert trials[:2] == [Trial(FULL, 1.0, 0), Trial(FULL, 1.0, 1)]
    assert {(t.selector, t.budget, t.seed) for t in trials[2:]} == {
        (s, b, n) for s in ("s2l", "random") for b in (0.1, 0.3) for n in (0, 1)
    }
    assert len(trials) == len(set(trials)) == 2 + 8
    assert len(grid(config(full=False))) == 8


def test_the_full_data_is_trained_anew_only_where_a_setting_concerns_it():
    trials = grid(config(parameters={"clusters.num_clusters": [4, 8], "target.learning_rate": [1e-3, 3e-3]}))
    full = [t for t in trials if t.selector == FULL]
    assert {t.parameters for t in full} == {(("target.learning_rate", 1e-3),), (("target.learning_rate", 3e-3),)}
    assert len(full) == 2 * 2
    assert len(trials) == 4 + 2 * 2 * 2 * 4
    assert len({t.key for t in trials}) == len(trials)


def test_trials_survive_json_and_tell_counts_from_shares():
    trial = Trial("s2l", 1, 2, (("clusters.num_clusters", 4), ("target.lora.target_modules", ["q_proj", "v_proj"])))
    again = Trial.of(json.loads(json.dumps(trial.plain())))
    assert (again, again.key, hash(again)) == (trial, trial.key, hash(trial))
    assert Trial("s2l", 1, 0) != Trial("s2l", 1.0, 0)
    assert Trial.of({"selector": "s2l", "budget": 0.1, "seed": 0}) == Trial("s2l", 0.1, 0)  # as Optuna proposes it
    swapped = dict(reversed(trial.plain()["parameters"].items()))
    assert Trial.of({**trial.plain(), "parameters": swapped}) == trial


def test_a_trial_is_the_base_configuration_with_its_own_settings():
    base = config()
    trial = Trial("random", 0.3, 1, (("clusters.num_clusters", 5), ("target.lora.rank", 4)))
    made = trial.config(base)
    assert made.target is not None
    assert (made.selection.selectors, made.selection.budgets) == (["random"], [0.3])
    assert (made.seed_of("selection"), made.seed_of("target"), made.seed_of("proxy")) == (1, 1, base.seed)
    assert made.target.lora is not None
    assert (made.clusters.num_clusters, made.target.lora.rank) == (5, 4)
    assert made.target_subsets() == ["random-0.3"]
    assert base == config(), "the base configuration was changed"
    whole = Trial(FULL, 1.0, 1).config(base)
    assert whole.target_subsets() == [FULL]
    assert whole.selection.budgets == base.selection.budgets


def test_the_predicted_sweep_trains_the_proxys_model_as_long_as_the_target():
    made = tree(parameters={"clusters.num_clusters": [4]})
    made["target"] |= {"length": "epochs", "max_steps": 7, "global_batch_size": 16, "learning_rate": 1e-4}
    made["target"]["from_config"] = dict(made["proxy"]["from_config"], hidden_size=64)
    base = load_config(made)
    small = predicting(base)
    assert small.target is not None
    assert small.target.from_config == base.proxy.from_config
    assert (small.target.max_steps, small.target.length) == (7, "epochs")
    assert (small.target.global_batch_size, small.target.learning_rate) == (32, 3e-3)
    assert small.proxy == base.proxy
    assert not small.sweep.parameters


def test_searches_know_how_much_there_is_to_propose():
    assert num_possible(config(parameters={"clusters.num_clusters": [4, 8]})) == 2 * 2 * 2 * 2
    ranges = config(search="random", num_samples=3, selectors=["s2l"], parameters=RATES)
    assert num_possible(ranges) == math.inf
    mine = Trial("s2l", 0.1, 0, (("target.learning_rate", 1e-3),))
    assert could_propose(ranges, mine)
    others = [
        Trial("random", 0.1, 0, mine.parameters), Trial("s2l", 0.2, 0, mine.parameters), Trial("s2l", 0.1, 0),
        Trial("s2l", 0.1, 2, mine.parameters), Trial("s2l", 0.1, 0, (("target.learning_rate", 1.0),)),
        Trial(FULL, 1.0, 0),
    ]  # fmt: skip
    assert not any(could_propose(ranges, t) for t in others)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        RATES,
        {"clusters.num_clusters": {"min": 2, "max": 40, "integer": True, "log": True}, "clusters.seed": [1, 2]},
    ],
)
def test_random_draws_differ_and_more_of_them_begin_with_the_same(parameters):
    def drawn(num_samples: int) -> list[Trial]:
        return draw(config(search="random", num_samples=num_samples, parameters=parameters))

    asked = config(search="random", num_samples=6, parameters=parameters)
    assert drawn(6)[:4] == drawn(4)
    assert len(set(drawn(6))) == 6
    assert all(could_propose(asked, t) for t in drawn(6))
    assert drawn(6) == [Trial.of(json.loads(json.dumps(t.plain()))) for t in drawn(6)], "not plain data"


def test_random_draws_end_where_there_are_no_more():
    asked = config(search="random", num_samples=99, parameters={"clusters.num_clusters": [4, 8]})
    assert len(draw(asked)) == num_possible(asked) == 2 * 2 * 2 * 2
    few = config(search="random", num_samples=99, num_seeds=1, budgets=[0.1], selectors=["s2l"],
                 parameters={"clusters.num_clusters": {"min": 2, "max": 4, "integer": True}})  # fmt: skip
    assert {t.parameters[0][1] for t in draw(few)} == {2, 3, 4}


# --- refusals -------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"parameters": RATES}, "sweep.search=grid cannot try every value of a range"),
    ({"num_samples": 4}, "sweep.num_samples=4 would do nothing"),
    ({"search": "optuna"}, "needs sweep.num_samples"),
    ({"parameters": {"clusters.num_clusters": []}}, "has no value to try"),
    ({"parameters": {"selection.budgets": [[0.1]]}}, "is set by sweep.budgets"),
    ({"parameters": {"target.seed": [1, 2]}}, "is set by sweep.num_seeds"),
    ({"parameters": {"heldout.share": [0.1, 0.2]}}, "could not be compared"),
    ({"parameters": {"resources.max_failures": [1]}}, "not a setting that results depend on"),
    ({"parameters": {"seed": [1]}}, "use section.field"),
    ({"parameters": {"clusters.num_cluster": [4]}}, "did you mean 'num_clusters'"),
    ({"parameters": {"clusters.num_snapshots": [2, 9]}}, "clusters.num_snapshots=9 asks for more"),
    ({"parameters": {"target.learning_rate": {"min": 2, "max": 1}}, "search": "random", "num_samples": 2}, "is empty"),
    ({"budgets": []}, "at least 1 item"),
    ({"budgets": [1.5]}, "budget 1.5 is neither a count"),
    ({"selectors": ["s2", "random"]}, "unknown selector 's2'"),
    ({"selectors": ["s2"], "search": "random", "num_samples": 2}, "unknown selector 's2'"),
    ({"parameters": {"clusters.num_snapshots": {"min": 2, "max": 9, "integer": True}}, "search": "optuna",
      "num_samples": 2}, "clusters.num_snapshots=9 asks for more"),
    ({"asha": {"grace_steps": 5}}, "target.evaluate_every_steps"),
    ({"heldout_set": "balance"}, "sweep.heldout_set='balance'"),
    ({"within": 2}, "less than 1"),
]  # fmt: skip


@pytest.mark.parametrize(("sweep", "message"), REFUSED)
def test_impossible_sweeps_are_refused_before_anything_starts(sweep, message, tmp_path, capsys):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(tree(tmp_path / "run", **sweep)))
    assert main(["sweep", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": None}, "there is none: add target.model"),
        ({"corpus": {"paths": ["a.jsonl"]}}, "nothing is held out: set heldout.share"),
    ],
)
def test_a_sweep_needs_a_target_and_something_held_out(changes, message, tmp_path, capsys):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(tree(tmp_path / "run") | changes))
    assert main(["sweep", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path, capsys):
    assert main(["sweep", str(tmp_path), "--resume"]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_all_values_of_a_search_may_be_tried():
    check_trials(config(search="random", num_samples=2, parameters=RATES | {"clusters.num_snapshots": [1, 4]}))


# --- how many at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "nodes", "asked", "at_once"),
    [
        ({}, [{"CPU": 9}], None, 8),  # one stays for reading
        ({}, [{"CPU": 9}], 99, 8),
        ({}, [{"CPU": 9}], 3, 3),
        ({}, [{"CPU": 1}], None, 1),  # never none: what cannot be had at all was refused before
        ({"num_workers": 2, "cpus_per_worker": 2}, [{"CPU": 13}], None, 3),
        ({"cpus_per_worker": 0.5}, [{"CPU": 2}], None, 2),
        ({"num_workers": 4, "gpus_per_worker": 1}, [{"CPU": 64, "GPU": 8}], None, 2),
        ({"gpus_per_worker": 0.5}, [{"CPU": 64, "GPU": 1}], None, 2),
        ({"custom_resources": {"big": 2}}, [{"CPU": 64, "big": 5}], None, 2),
        ({"cpus_per_worker": 4}, [{"CPU": 6}, {"CPU": 7}, {"CPU": 3}], None, 2),  # 15 CPUs beside reading, but borders
        ({"num_workers": 4, "min_workers": 2, "gpus_per_worker": 1}, [{"CPU": 64, "GPU": 8}], None, 4),
        ({"num_workers": 2, "gpus_per_worker": 1, "accelerator_type": "L4"},
         [{"CPU": 64, "GPU": 8, "accelerator_type:H100": 1}, {"CPU": 8, "GPU": 2, "accelerator_type:L4": 1}], None, 1),
    ],
)  # fmt: skip
def test_as_many_trials_at_once_as_have_all_their_workers(workers, nodes, asked, at_once):
    fields: dict[str, Any] = {"num_workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0, "accelerator_type": None}
    placement = Placement("cpu", parallelism=1, **fields | workers)
    assert concurrency(placement, nodes, asked) == at_once
