"""What the user asks for is done or refused, never dropped or merged without a word."""

from __future__ import annotations

import json
from typing import Any

import pytest

from s2l_ray.cli import main
from s2l_ray.config import load_config
from s2l_ray.config.load import ConfigError
from s2l_ray.sweeps.resolve import resolve
from s2l_ray.sweeps.trials import Trial
from s2l_ray.workflow.commands import _finetuning, _refuse_selecting, _selecting
from tests.support.selection_file import FILE, file, subsets
from tests.support.sweep_config import config, tree


def refused(tree: Any, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(tree, overrides)
    return str(error.value)


# --- the file's targets, when the command line changes the selection --------------------------------------------------


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("selection.budgets=[0.05]", ["full", "s2l-0.05", "random-0.05"]),
        ("selection.budgets=[1]", ["full", "s2l-1", "random-1"]),
        ("selection.budgets=[1.0]", ["full", "s2l-1.0", "random-1.0"]),
        ("selection={budgets: [7], selectors: [s2l, random]}", ["full", "s2l-7", "random-7"]),
        ("selection.stratify=true", ["full", "s2l-stratified-0.2", "random-0.2"]),
        ("selection.budgets=[0.1, 0.2]", ["full", "s2l-0.1", "s2l-0.2", "random-0.1", "random-0.2"]),
        ("selection.budgets=[5, 0.7]", ["full", "s2l-5", "s2l-0.7", "random-5", "random-0.7"]),
        ("selection={budgets: [1, 2], selectors: [random, random_per_source, s2l]}",
         ["full", "s2l-1", "s2l-2", "random-1", "random-2"]),
    ],
)  # fmt: skip
def test_targets_follow_the_changed_selection_and_that_is_said(caplog, override, expected):
    assert subsets(FILE, override) == expected
    [record] = caplog.records
    assert f"[{', '.join(expected)}]" in record.getMessage()
    assert "in the file [full, s2l-0.2, random-0.2]" in record.getMessage()


@pytest.mark.parametrize(
    "override",
    ["selection.budgets=[0.2]", "selection.stratify=false", "selection.selectors=[random, s2l]", "seed=3",
     "selection.selectors=[s2l, random, random_per_source]", "target.epochs=1"],
)  # fmt: skip
def test_targets_that_are_still_chosen_stay_as_they_are(caplog, override):
    assert subsets(FILE, override) == ["full", "s2l-0.2", "random-0.2"]
    assert not caplog.records


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["selection={budgets: [0.05, 0.1], selectors: [s2l]}"],
         ["s2l-0.2, random-0.2 of", "target.subsets=[full,s2l-0.05,s2l-0.1]"]),
        (["selection.selectors=[s2l]"], ["random-0.2 of", "target.subsets=[full,s2l-0.2]"]),
        (["selection.selectors=[random_per_source]"], ["s2l-0.2, random-0.2 of", "[full,random_per_source-0.2]"]),
        (["selection={budgets: [0.1]}"], ["random-0.2 of", "target.subsets=[full,s2l-0.1]"]),
    ],
)  # fmt: skip
def test_targets_that_cannot_follow_are_named_with_what_there_is(overrides, words):
    said = refused(FILE, *overrides)
    for word in words:
        assert word in said
    assert subsets(FILE, *overrides, "target.subsets=[full]") == ["full"]
    assert subsets(FILE, *overrides, "target.subsets=[]") == []


def test_budgets_keep_their_places():
    two = file(budgets=[0.1, 0.2])
    assert subsets(two, "selection.budgets=[0.3, 0.4]") == ["full", "s2l-0.4", "random-0.4"]
    assert subsets(two, "selection.budgets=[0.2, 0.3]") == ["full", "s2l-0.2", "random-0.2"]
    some = two | {"target": {"model": "n", "subsets": ["s2l-0.2", "random-0.1", "random-0.2"]}}
    assert "s2l-0.2, random-0.1, random-0.2 of" in refused(some, "selection.budgets=[0.3]"), (
        "s2l has one of two budgets"
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["s2l-0.1", "s2l-0.2"], ["s2l-0.2", "s2l-0.3", "s2l-0.4"]),
        (["s2l-0.2", "s2l-0.1", "full"], ["s2l-0.2", "s2l-0.3", "s2l-0.4", "full"]),
        (["random-0.1", "s2l-0.1", "random-0.2", "s2l-0.2"],
         ["random-0.2", "random-0.3", "random-0.4", "s2l-0.2", "s2l-0.3", "s2l-0.4"]),
        (["full"], ["full"]),
    ],
)  # fmt: skip
def test_targets_on_every_budget_become_targets_on_every_new_one(names, expected):
    tree = file(budgets=[0.1, 0.2]) | {"target": {"model": "n", "subsets": names}}
    assert subsets(tree, "selection.budgets=[0.2, 0.3, 0.4]") == expected
    assert subsets(tree, "seed=3") == names
    assert subsets(tree, "selection.budgets=[0.2, 0.1]") == names


def test_the_files_own_slip_is_not_mended():
    slip = FILE | {"target": {"model": "n", "subsets": ["s2l-0.7"]}}
    assert "'s2l-0.7' is not a subset of this selection" in refused(slip, "selection.budgets=[0.3]")
    assert "'s2l-0.2' is not a subset" in refused(FILE, "selection.budgets=[0.3]", "target.subsets=[s2l-0.2]")
    assert "budget -1 is neither" in refused(FILE, "selection.budgets=[-1]")


def test_a_recipe_with_targets_takes_another_budget():
    config = load_config("quickstart", ["selection.budgets=[0.1]"])
    assert config.target_subsets() == ["full", "s2l_robust-0.1", "random-0.1"]
    config = load_config("quickstart", ["selection.budgets=[0.1,0.2]"])
    assert config.target_subsets() == ["full", "s2l_robust-0.1", "s2l_robust-0.2", "random-0.1", "random-0.2"]


# --- overrides and options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=1", "seed=2"], ["selection.budgets=[0.1]", "selection={budgets: [0.2]}"],
        ["proxy.learning_rate=1", "seed=1", "proxy.learning_rate=1"],
        ["heldout.files.test=[a]", "heldout.files={other: [b]}"],
    ],
)  # fmt: skip
def test_an_override_that_a_later_one_would_replace_is_refused(overrides):
    assert f"the override {overrides[0].partition('=')[0]}=… would be lost" in refused(FILE, *overrides)
    with pytest.raises(ConfigError, match="would be lost"):
        resolve("quickstart", ["sweep.within=0.1"], 0.2)


def test_an_override_may_refine_what_an_earlier_one_began():
    made = load_config(FILE, ["heldout.files={a: [x]}", "heldout.files.b=[y]"])
    assert made.heldout.files == {"a": ["x"], "b": ["y"]}


def test_a_tokenizer_for_random_weights_stays_with_another_model():
    made = FILE | {"proxy": {"model": "m", "random_weights": True, "train_tokenizer": {"vocab_size": 300}}}
    proxy = load_config(made, ["proxy.model=other"]).proxy
    assert (proxy.model, proxy.random_weights) == ("other", True)
    assert proxy.train_tokenizer is not None


def test_a_typed_configuration_takes_overrides_as_a_file_does(tmp_path):
    typed = load_config(tree(tmp_path))
    resolved = resolve(typed, ["sweep.num_seeds=5"], 0.5)
    assert (resolved.sweep.num_seeds, resolved.sweep.within) == (5, 0.5)


@pytest.mark.parametrize(
    "arguments",
    [
        ["select", "x", "--budget", "0.1", "--budget", "0.3"],
        ["select", "x", "--budget", "1", "--seed=1", "--seed=2"],
        ["select", "x", "--budget", "1", "--selector", "s2l", "--selector", "random"],
        ["finetune", "x", "--subset", "s2l-1", "--subset", "random-1"],
        ["finetune", "x", "--budget", "1", "--budget", "1"],
        ["sweep", "x", "--within", "0.1", "--within", "0.2"],
    ],
)  # fmt: skip
def test_an_option_given_twice_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "given twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("selection", {"budgets": [0.1, 0.2, 0.1]}), ("selection", {"budgets": [5, 5]}),
        ("selection", {"selectors": ["s2l", "s2l"]}), ("sweep", {"budgets": [0.1, 0.10]}),
        ("sweep", {"selectors": ["random", "random"]}), ("sweep", {"parameters": {"clusters.num_clusters": [4, 4]}}),
        ("sweep", {"parameters": {"target.lora.target_modules": [["q"], ["q"]]}}),
    ],
)  # fmt: skip
def test_what_is_listed_twice_is_refused(section, value):
    assert "twice" in refused({k: v for k, v in FILE.items() if k != "target"} | {section: value})


def test_targets_listed_twice_are_refused():
    assert "lists 'full' twice" in refused(FILE | {"target": {"model": "n", "subsets": ["full", "full"]}})


# --- options that mean nothing together -------------------------------------------------------------------------------


def test_stratify_is_refused_where_no_selector_takes_it():
    said = refused(file(selectors=["random"], stratify=True) | {"target": None})
    assert "stratify=true would do nothing: the selector random does not take it" in said
    assert "choose s2l" in said
    base = load_config(FILE | {"target": None})
    for selector in ("random", "random_per_source"):
        with pytest.raises(ConfigError, match=f"the selector {selector} does not take it"):
            _selecting(base, 0.1, selector, stratify=True)
    assert _selecting(base, 0.1, "s2l", stratify=True).selection.stratify


def test_the_runs_own_stratify_is_for_the_selectors_that_take_it():
    base = load_config(file(stratify=True) | {"target": None})
    assert list(_selecting(base, 0.1, "random").subset_budgets()) == ["random-0.1"]
    assert list(_selecting(base, 0.1, "s2l").subset_budgets()) == ["s2l-stratified-0.1"]
    assert list(_selecting(base, 0.1, "s2l", stratify=False).subset_budgets()) == ["s2l-0.1"]
    swept = config(budgets=[0.1]).model_copy(update={"selection": base.selection})
    assert [t.config(swept).selection.stratify for t in (Trial("s2l", 0.1, 0), Trial("random", 0.1, 0))] == [
        True,
        False,
    ]


def test_first_of_all_snapshots_is_refused_unless_a_sweep_says_how_many():
    first = FILE | {"target": None, "clusters": {"snapshots": "first"}}
    assert "clusters.snapshots=first would do nothing" in refused(first)
    load_config(first, ["clusters.num_snapshots=3"])
    load_config(first, ["sweep.parameters={clusters.num_snapshots: [2, 4]}"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"full": False}, "sweep.full=false"), ({"search": "random", "num_samples": 3}, "sweep.search=random"),
        ({"parameters": {"clusters.num_clusters": [4]}}, "clusters.num_clusters"),
        ({"asha": {"grace_steps": 5}}, "sweep.asha"),
    ],
)  # fmt: skip
def test_the_smallest_budget_is_not_looked_for_among_what_it_would_not_try(asked, message, tmp_path, capsys):
    made = tree(tmp_path / "run", **asked)
    made["target"]["evaluate_every_steps"] = 5
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(made))
    assert main(["sweep", str(path), "--find-smallest"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("override", ["target.subsets=[full]", "target.subsets=[]", " target.subsets = [s2l-0.2]"])
def test_finetune_refuses_a_list_of_targets_that_it_would_not_make(override):
    with pytest.raises(ConfigError, match="trains one target, so this would do nothing"):
        _refuse_selecting([override])


def test_finetune_takes_the_selector_that_was_asked_for_at_the_runs_budget():
    base = load_config(FILE)
    assert list(_finetuning(base, [], None, "random").subset_budgets()) == ["random-0.2"]
    assert list(_finetuning(base, [], 5, None).subset_budgets()) == ["s2l-5"]
    assert list(_finetuning(base, [], None, None).subset_budgets()) == ["s2l-0.2"]
    with pytest.raises(ConfigError, match="unknown selector ''"):
        _finetuning(base, [], None, "")


def test_a_subsets_name_and_a_budget_contradict_each_other(tmp_path):
    from s2l_ray import finetune

    for asked in ({"budget": 0.3}, {"selector": "random"}):
        with pytest.raises(ConfigError, match="give one or the other"):
            finetune(str(tmp_path), "s2l-0.2", **asked)
