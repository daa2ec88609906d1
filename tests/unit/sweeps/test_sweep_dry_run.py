"""`s2l sweep --dry-run`: trials, what their trainings take, and what the questions that decide cost, as of
`s2l evaluate`; nothing is started or written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.cli import main
from s2l_ray.config import load_config
from s2l_ray.config.load import ConfigError
from s2l_ray.observability.progress import format_count
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.dry_run import _loaded, sweep_dry_run
from s2l_ray.sweeps.objective import asking, read_asked
from s2l_ray.testing.tiny import tiny_run_config
from s2l_ray.workflow.estimate import estimate
from s2l_ray.workflow.evaluation_estimate import task_cost
from s2l_ray.workflow.target_estimate import reference_cost


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    made = tiny_run_config(tmp_path / "run")
    made["target"] = {**made["proxy"], "subsets": []}
    made["heldout"] = {"share": 0.05}
    made["sweep"] = {"budgets": [0.1, 0.3], "selectors": ["s2l", "random"], "num_seeds": 2}
    return made


def by_answers(tree: dict[str, Any]) -> dict[str, Any]:
    sweep = {**tree["sweep"], "metric": "evaluation.quickstart.correct"}
    return {**tree, "evaluation": {"tasks": ["quickstart"]}, "sweep": sweep}


@pytest.mark.thorough
def test_questions_cost_what_evaluate_says_for_every_trial(tree, tmp_path):
    config = load_config(by_answers(tree))
    lines = sweep_dry_run(config).lines
    assert lines[0].startswith("tiny: 10 trials, judged by evaluation.quickstart.correct")  # 2 x 2 x 2 and full twice
    [task] = read_asked(config, Storage.open(tmp_path / "other"), lambda text: None)
    assert config.target is not None
    asked = task_cost(asking(config), "each trial", config.target, *_loaded(config.target, task), task, "instruction")
    assert set(asked.lines) <= set(lines)
    [answers] = [line for line in lines if line.startswith("answers")]
    assert f"at most {format_count(10 * asked.tokens)} tokens, {10 * asked.flops:.2e} FLOPs for 10 trials" in answers
    [trials] = [line for line in lines if line.startswith("trials")]
    assert "fine-tune on" in trials
    assert not (tmp_path / "run").exists()


def test_where_held_out_examples_decide_nothing_is_asked(tree, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("s2l_ray.execution.session.ray_session", lambda *_, **__: pytest.fail("a Ray was started"))
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(tree))
    assert main(["sweep", str(path), "--dry-run", "--find-smallest"]) == 0
    said = capsys.readouterr().out
    assert "10 trials" in said
    assert "answers " not in said
    assert "--find-smallest fine-tunes the target only at the budgets that bisection visits" in said
    assert said.rstrip().endswith("Dry run: nothing was started.")
    assert not (tmp_path / "run").exists()


def test_the_estimate_is_also_given_as_json(tree, tmp_path, capsys):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(tree))
    assert main(["sweep", str(path), "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["selector"], one["budget"], one["seed"]) for one in told["trials"][:3]] == [
        ("full", 1.0, 0), ("full", 1.0, 1), ("s2l", 0.1, 0),
    ]  # fmt: skip
    config = load_config(tree)
    tokens = sum(one["cost"]["tokens"] for one in told["trials"])
    [line] = [line for line in sweep_dry_run(config).lines if line.startswith("trials")]
    assert f"fine-tune on {format_count(tokens)} tokens in all" in line
    assert (told["metric"], told["answers"], told["reference"]) == (config.sweep.metric, None, None)
    assert load_config(told["configuration"]) == config
    assert main(["sweep", str(path), "--json"]) == 2
    assert "--json is about what --dry-run prints" in capsys.readouterr().err


def test_a_search_is_estimated_by_as_many_trials_as_it_may_try(tree):
    tree["sweep"] |= {"search": "random", "num_samples": 7}
    assert sweep_dry_run(load_config(tree)).lines[0].startswith("tiny: at most 9 trials by random search")


def test_what_the_sweep_would_refuse_is_refused(tree):
    tree = by_answers(tree)
    tree["sweep"]["metric"] = "evaluation.quickstart.bleu"
    with pytest.raises(ConfigError, match="no such metric"):
        sweep_dry_run(load_config(tree))


@pytest.mark.thorough
def test_the_target_that_scores_is_trained_once_for_each_corpus_and_its_passes_are_counted(tree):
    tree["sweep"] |= {"selectors": ["ifd", "random"], "parameters": {"selection.reference.snapshot": ["late", "early"]}}
    tree["selection"] = {"selectors": ["ifd"], "budgets": [0.1]}
    assert not [line for line in sweep_dry_run(load_config(tree)).lines if line.startswith("reference")]
    tree["selection"]["reference"] = {"model": "target"}
    config = load_config(tree)
    lines = sweep_dry_run(config).lines
    at = lines.index("reference     the target, fine-tuned on everything, scores the corpus")
    corpus = estimate(config).corpus
    assert corpus is not None
    expected = reference_cost(config, corpus, 4)  # losses with and without the prompt, at two snapshots
    assert expected is not None
    assert lines[at + 1] == expected.line(None)
    assert lines[at + 2].startswith("note          full, seed 0, is the same target: trained once")
    tree["target"]["seed"] = 5
    assert "is the same target" not in "\n".join(sweep_dry_run(load_config(tree)).lines)

    tree["sweep"]["parameters"]["corpus.duplicates"] = ["drop", "keep"]
    lines = sweep_dry_run(load_config(tree)).lines
    at = lines.index(
        "reference     the target, fine-tuned on everything, scores the corpus, once for each of 2 corpora"
    )
    assert f"{2 * expected.flops:.2e} FLOPs" in lines[at + 1]
