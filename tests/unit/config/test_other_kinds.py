"""Values of another kind than the field's are refused, not read as something else; so is what is no section."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from s2l_ray.config import load_config
from s2l_ray.config.describe import describe_all, json_schema

BASE: dict[str, Any] = {"corpus": {"paths": ["a.jsonl"]}, "proxy": {"model": "m"}, "target": {"model": "m"}}


def refusal(tree: dict[str, Any]) -> str:
    with pytest.raises(ValueError, match="the configuration cannot be used") as refused:
        load_config(tree)
    return str(refused.value)


def with_value(path: str, value: Any) -> dict[str, Any]:
    tree = {name: dict(section) for name, section in BASE.items()}
    node: dict[str, Any] = tree
    *sections, field = path.split(".")
    for name in sections:
        node = node.setdefault(name, {})
    node[field] = value
    return tree


def test_no_number_is_read_as_true_or_false_or_a_date():
    """pydantic takes 1 and 1.0 for true, and 0 for a day in 1970."""
    fields = {one.path: one.type for one in describe_all() if "true or false" in one.type or one.type == "date"}
    assert {"target.compile", "selection.stratify", "proxy.template_date"} <= fields.keys()
    for path in fields:
        for value in (0, 1, 1.0):
            assert f"{path}: is the number {value}, but must be " in refusal(with_value(path, value)), path


@pytest.mark.parametrize("path", ["proxy.epochs", "clusters.num_clusters", "target.zero_stage"])
def test_no_boolean_is_read_as_a_number(path):
    assert f"{path}: is true or false, a boolean, but must be a number" in refusal(with_value(path, True))


@pytest.mark.thorough
def test_no_boolean_is_read_as_any_number():
    numbers = [one.path for one in describe_all() if "number" in one.type and " of " not in one.type]
    assert len(numbers) > 50
    for path in numbers:
        assert f"{path}: is true or false, a boolean, but must be a number" in refusal(with_value(path, True)), path


def fields_of(*kinds: str) -> list[str]:
    return [one.path for one in describe_all() if any(kind in one.type.split(" or ") for kind in kinds)]


def test_quotes_make_a_text_for_the_loader_as_for_the_schema():
    """Fields that take any text besides (`selection.stratify`) take it as text."""
    validator = jsonschema.Draft202012Validator(json_schema())
    cases = [(path, "2", "a number") for path in fields_of("number", "whole number")]
    cases += [(path, text, "true or false") for path in fields_of("true or false") for text in ("true", "no", "1")]
    cases = [case for case in cases if case[0] not in fields_of("text")]
    assert len(cases) > 60
    for path, text, kind in cases:
        tree = with_value(path, text)
        assert not validator.is_valid(tree), path
        assert f"{path}: is the text {text!r}, but must be {kind}; write it without quotes" in refusal(tree), path


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("selection.budgets", ["0.3"], "selection.budgets: is the text '0.3', but must be a number"),
        ("proxy.epochs", " 2 ", "proxy.epochs: is the text ' 2 ', but must be a number"),
        ("proxy.epochs", "1_0", "proxy.epochs: is the text '1_0', but must be a number"),
        (
            "proxy.template_date",
            "0",
            "proxy.template_date: is the text '0', but must be a date; write it as 2025-01-31",
        ),
        ("selection.options", {"facility_location": {"neighbours": "64"}}, "neighbours: is the text '64', but must be"),
    ],
)
def test_what_is_quoted_is_named_with_the_cure(path, value, told):
    tree = with_value(path, value)
    if path == "selection.options":
        tree["selection"]["selectors"] = ["facility_location"]
    assert told in refusal(tree)


def test_a_quoted_number_is_a_text_on_the_command_line_too():
    load_config(BASE, ["proxy.epochs=2"])
    with pytest.raises(ValueError, match=r"proxy\.epochs: is the text '2', but must be a number"):
        load_config(BASE, ["proxy.epochs='2'"])


@pytest.mark.parametrize("value", [None, 3, "x", [1]])
def test_a_section_that_is_none_says_what_would_be_one(value):
    told = refusal(BASE | {"clusters": value})
    got = "nothing; leave it out for the defaults" if value is None else f"{value!r}; write clusters: and its settings"
    assert f"clusters: must be a section with settings, got {got}" in told
    assert "ClustersConfig" not in told


def test_a_text_that_is_too_long_is_named_with_its_field():
    assert "proxy.revision: a text of 5,000 characters" in refusal(with_value("proxy.revision", "x" * 5000))


@pytest.mark.parametrize(("value", "cure"), [("30%", "write [0.3]"), (0.3, "write [0.3]"), ("0.5 %", "write [0.005]")])
def test_the_list_that_is_proposed_is_accepted_for_percentages(value, cure):
    assert f"selection.budgets: must be a list, got {value!r}; {cure}" in refusal(
        with_value("selection.budgets", value)
    )
