"""The section `selection`: what is set for all selectors, for one, and what would do nothing."""

from __future__ import annotations

from typing import Any

import pytest

from s2l_ray.artifacts.points import Point
from s2l_ray.config import ConfigError, load_config, to_yaml
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.selection import SelectionConfig
from s2l_ray.selection import list_selectors
from s2l_ray.selection.options import ClusterOptions
from s2l_ray.stages.competence import watches_competence
from s2l_ray.stages.proxy.stage import _kept
from s2l_ray.sweeps.trials import Trial, check_trials
from s2l_ray.workflow.commands import _selecting

ALL = sorted(selector.name for selector in list_selectors() if selector.name != "rds_plus")


def config(**selection: Any) -> S2LConfig:
    tree = {"corpus": {"paths": ["x.jsonl"], "source_column": "source"}, "proxy": {"model": "m"}}
    return load_config(tree | {"selection": selection})


def exponent(selection: SelectionConfig, name: str) -> float:
    options = selection.options_of(name)
    assert isinstance(options, ClusterOptions)
    return options.allocation_exponent


def refused(**selection: Any) -> str:
    with pytest.raises(ConfigError) as found:
        config(**selection)
    return str(found.value)


def test_every_selector_can_be_asked_for_and_the_stored_configuration_reads_the_same() -> None:
    asked = config(selectors=ALL, stratify=True, allocation_exponent=0.5, guard={"max_rise_nats": 0.3})
    assert load_config(dict(__import__("yaml").safe_load(to_yaml(asked)))) == asked
    for name in ALL:
        one = asked.selection.options_of(name)
        assert getattr(one, "stratify", True) is True
        assert getattr(one, "allocation_exponent", 0.5) == 0.5
        assert one.guard.max_rise_nats == (0.3 if name == "s2l_robust" else 0.2)


def test_what_is_not_set_is_left_to_each_selector() -> None:
    asked = config(selectors=["s2l", "s2l_robust"]).selection
    assert exponent(asked, "s2l") == 0
    assert exponent(asked, "s2l_robust") == 0.5
    assert asked.options_of("s2l_robust").guard.rules == ["rise", "not_learnt"]
    relaxed = config(selectors=["s2l", "s2l_robust"], guard={"max_rise_nats": 0.5}).selection
    assert relaxed.options_of("s2l_robust").guard.rules == ["rise", "not_learnt"]
    assert not relaxed.options_of("s2l").guard.rules
    assert not config(selectors=["s2l_robust"], guard={"rules": []}).selection.options_of("s2l_robust").guard.rules


def test_a_selectors_own_settings_win() -> None:
    asked = config(selectors=["s2l", "s2l_robust"], allocation_exponent=1, options={"s2l": {"allocation_exponent": 0}})
    assert exponent(asked.selection, "s2l") == 0
    assert exponent(asked.selection, "s2l_robust") == 1


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({"selectors": ["s2"]}, "unknown selector 's2'; known:"),
        ({"options": {"s2": {}}}, "unknown selector 's2'"),
        (
            {"options": {"s2l": {"neighbours": 3}}},
            "selection.options.s2l sets neighbours, which the selector s2l does not have",
        ),
        (
            {"options": {"s2l": {"allocation_exponent": 2}}},
            "allocation_exponent: 2 is above the limit of 1",
        ),
        ({"selectors": ["random"], "allocation_exponent": 0.5}, "allocation_exponent=0.5 would do nothing"),
        ({"selectors": ["s2l"], "reference": {"snapshot": "early"}}, "reference.snapshot=early would do nothing"),
        ({"selectors": ["least_confidence"], "weights": "cluster"}, "weights=cluster would do nothing"),
        ({"weights_cap": 3}, "weights_cap=3 would do nothing without weights"),
        ({"guard": {"max_rise_nats": 0.3}}, "guard.max_rise_nats=0.3 would do nothing without rise"),
        ({"guard": {"rules": ["rise"], "neighbours": 3}}, "guard.neighbours=3 would do nothing without local"),
        ({"guard": {"min_kept_share": 0.5}}, "guard.min_kept_share=0.5 would do nothing without a rule"),
        ({"selectors": ["ifd"], "reference": {"early_share": 0.3}}, "reference.early_share=0.3 would do nothing"),
        ({"selectors": ["rds_plus"]}, r"rds_plus needs examples of your task, .*selection\.query\.paths="),
        ({"query": {"paths": ["task.jsonl"]}}, r"query\.paths=\['task\.jsonl'\] would do nothing"),
        (
            {"selectors": ["s2l"], "reference": {"model": "target"}},
            "model=target would do nothing: no selector",
        ),
        ({"selectors": ["ifd"], "reference": {"model": "target"}}, "scores with the target, and there is none"),
        ({"selectors": ["ifd"], "reference": {"embedding_dim": 8}}, "reference.embedding_dim=8 would do nothing"),
        ({"selectors": ["ifd"], "reference": {"snapshot": "start"}}, "trajectories.include_step_zero=true"),
    ],
)
def test_what_would_do_nothing_or_cannot_be_is_refused(selection: dict[str, Any], said: str) -> None:
    import re

    assert re.search(said, refused(**selection))


def test_scores_that_training_does_not_compute_are_refused() -> None:
    tree = {"corpus": {"paths": ["x.jsonl"]}, "proxy": {"model": "m", "epochs": 3}}
    tree |= {"selection": {"selectors": ["forgetting"]}, "trajectories": {"source": "hybrid"}}
    with pytest.raises(ConfigError, match=r"forgetting reads scores that trajectories\.source=hybrid does not have"):
        load_config(tree)


def test_one_selector_of_several_takes_what_it_knows() -> None:
    run = config(
        selectors=["s2l_robust", "ifd", "random"], allocation_exponent=0.2, weights="cluster", weights_cap=5,
        guard={"max_rise_nats": 0.4, "min_kept_share": 0.5}, reference={"snapshot": "early", "early_share": 0.3},
    )  # fmt: skip
    for one in ALL:
        chosen = _selecting(run, 0.2, one).selection
        assert chosen.options_of(one) == run.selection.options_of(one)
        assert chosen.settings_of(one) == run.selection.settings_of(one)
        target = {"target": {"model": "m"}, "heldout": {"share": 0.1}}
        swept = load_config(run.model_dump(mode="json") | target)
        assert Trial(one, 0.2, 0).config(swept).selection.options_of(one) == run.selection.options_of(one)
    with pytest.raises(ConfigError, match="the selector random does not take it"):
        _selecting(run, 0.2, "random", overrides=["selection.allocation_exponent=0.5"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("guard.max_rise_nats", -1.0), ("guard", 3), ("guard.rules", ["falls"]), ("reference.early_share", 2.0),
        ("reference", "late"), ("options", 3), ("options", {"s2l": 3}), ("options", {"s2l": {"neighbours": 3}}),
        ("options", {"s2l": {"allocation_exponent": 7}}), ("weights", "random"), ("stratify", 3),
    ],
)  # fmt: skip
def test_a_trial_with_a_value_that_cannot_be_says_what_the_configuration_says(path: str, value: Any) -> None:
    tree = config().model_dump(mode="json") | {"target": {"model": "m"}, "heldout": {"share": 0.1}}
    with pytest.raises(ConfigError, match=rf"selection\b.*{path.split('.')[-1]}"):
        Trial("s2l", 0.2, 0, ((f"selection.{path}", value),)).config(load_config(tree))


def test_examples_of_the_task_are_for_the_selectors_that_compare_with_them() -> None:
    run = config(selectors=["rds_plus", "random"], query={"paths": ["task.jsonl"]})
    assert run.selection.query_need("rds_plus") == "position_weighted_embedding@late"
    assert run.selection.query_need("random") is None
    guarded = config(
        selectors=["rds_plus"], query={"paths": ["t"]}, guard={"rules": ["local"]}, reference={"snapshot": "first"}
    )
    assert guarded.selection.query_need("rds_plus") == "position_weighted_embedding@first", "not the guard's"
    assert _selecting(run, 0.2, "rds_plus").selection.query.paths == ["task.jsonl"]
    assert _selecting(run, 0.2, "random").selection.query.paths == []
    assert _selecting(config(), 9, "rds_plus", overrides=["selection.query.paths=[t]"]).selection.query.paths == ["t"]
    with pytest.raises(ConfigError, match="rds_plus needs examples of your task"):
        _selecting(config(), 0.2, "rds_plus")
    tree = run.model_dump(mode="json") | {"target": {"model": "m"}, "heldout": {"share": 0.1}}
    tree["sweep"] = {"selectors": ["rds_plus", "s2l"]}
    for name in ("rds_plus", "s2l"):
        assert Trial(name, 0.2, 0).config(load_config(tree)).selection.selectors == [name]
    tree["selection"] |= {"selectors": ["s2l"]}
    assert load_config(tree).selection.query.paths == ["task.jsonl"], "the sweep's selectors count too"
    tree["selection"]["query"] = {}
    with pytest.raises(ConfigError, match="rds_plus needs examples of your task"):
        check_trials(load_config(tree))


def test_with_the_target_as_the_reference_the_proxy_needs_less() -> None:
    tree: dict[str, Any] = {"corpus": {"paths": ["x.jsonl"]}, "proxy": {"model": "m", "epochs": 3}}
    tree |= {"trajectories": {"source": "training"}, "target": {"model": "m"}}
    asked = {"selectors": ["least_confidence", "facility_location", "s2l"], "reference": {"model": "target"}}
    asked["reference"] |= {"snapshot": "start"}  # type: ignore[operator]
    made = load_config(tree | {"selection": asked}).selection
    assert made.settings_of("least_confidence")["reference_model"] == "target"
    assert "reference_model" not in made.settings_of("s2l")
    with pytest.raises(ConfigError, match=r"cartography_hard reads scores that trajectories\.source=training does not"):
        load_config(tree | {"selection": {**asked, "selectors": ["cartography_hard", "ifd"]}})
    chosen = _selecting(load_config(tree | {"selection": asked}), 0.2, "random").selection
    assert chosen.reference.model == "proxy", "nothing that random reads"


def test_the_middle_of_the_proxys_training_is_kept_where_a_guard_is_to_be_judged() -> None:
    robust = config(selectors=["s2l_robust"])
    watching = load_config(robust.model_dump(mode="json", exclude={"target"}) | {"heldout": {"share": 0.1}})
    points = tuple(Point(step) for step in (1, 20, 40, 60))
    assert (watches_competence(robust), watches_competence(watching)) == (False, True)
    assert (_kept(robust, points), _kept(watching, points)) == ((), (1,))
    assert _kept(watching, points[-1:]) == (), "the last are there anyway"
    checked = load_config(watching.model_dump(mode="json", exclude={"target", "gradients"}) | {"gradients": {}})
    assert _kept(checked, points) == (1,), "the gradient check looks at the same"
    of_epochs = (Point(10, 0), Point(25), Point(40, 1), Point(60))
    assert _kept(watching, of_epochs) == (1,), "a hybrid's scored snapshot"
    plain = load_config({**watching.model_dump(mode="json", exclude={"target"}), "selection": {"selectors": ["s2l"]}})
    assert _kept(plain, points) == ()


def test_a_choice_depends_on_what_its_selector_needs_alone() -> None:
    plain, changed = config(selectors=ALL).selection, config(selectors=ALL, allocation_exponent=0.5).selection
    assert plain.settings_of("s2l") == {"stratify": False}
    assert changed.settings_of("s2l") == {"stratify": False, "options": {"allocation_exponent": 0.5}}
    assert changed.settings_of("s2l_robust") == {"stratify": False}, "its own default is said again"
    assert changed.settings_of("random") == plain.settings_of("random") == {"stratify": False}
    assert not plain.needs_of("random")
    early = config(selectors=["ifd"], reference={"snapshot": "early"}).selection
    assert early.settings_of("ifd") == {"stratify": False, "options": {"reference": "early"}, "early_share": 0.1}


def test_the_documentation_has_every_selector_as_the_registry_describes_it() -> None:
    from pathlib import Path

    rows = [line.split("|")[1:3] for line in (Path(__file__).parents[3] / "docs/selectors.md").read_text().splitlines()
            if line.startswith("| `")]  # fmt: skip
    assert [(name.strip(" `"), said.strip()) for name, said in rows] == [
        (one.name, one.summary) for one in list_selectors()
    ]


def test_the_selectors_of_a_sweep_are_looked_up_when_a_configuration_is_loaded() -> None:
    with pytest.raises(ConfigError, match=r"sweep\.selectors: unknown selector 'nonsense'; known: "):
        load_config("quickstart", ["sweep.selectors=[nonsense]"])
