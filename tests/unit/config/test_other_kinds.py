"""Values of another kind than the field's are refused, not read as something else; so is what is no section."""

from __future__ import annotations

from typing import Any

import pytest

from s2l_ray.config import load_config
from s2l_ray.config.describe import describe_all

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
