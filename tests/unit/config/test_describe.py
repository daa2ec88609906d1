"""`s2l explain` of what is not a field's whole path: items, options of selectors, names without their section."""

from __future__ import annotations

import pytest

from s2l_ray.config.describe import describe
from s2l_ray.errors import UserError


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("heldout.files.test", "heldout.files"),
        ("selection.budgets.0", "selection.budgets"),
        ("target.from_config.hidden_size", "target.from_config"),
        ("sweep.parameters.clusters.num_clusters", "sweep.parameters"),
        ("evaluation.custom.mine.files", "evaluation.custom.mine.files"),
    ],
)
def test_what_is_the_users_own_is_explained_by_its_field(path, field):
    [described] = describe(path)
    assert described.path == field


def test_options_of_a_selector_are_explained():
    head, *options = describe("selection.options.facility_location")
    assert head.type == "section"
    assert "selection.options.facility_location.neighbours" in [one.path for one in options]
    [one] = describe("selection.options.facility_location.neighbours")
    assert one.type == "whole number or null"
    assert one.text
    rules, *_ = describe("selection.options.s2l.guard.rules")
    assert rules.path == "selection.options.s2l.guard.rules"


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("budgets", "Did you mean selection.budgets or sweep.budgets?"),
        ("num_clusters", "Did you mean clusters.num_clusters?"),
        ("workers", "resources.proxy.workers or resources.target.workers or resources.evaluation.workers?"),
        ("Selection.Budgets", "Did you mean selection.budgets or sweep.budgets?"),
        ("target.epoch", "Did you mean target.epochs?"),
        ("proxy.epochs.x", "is not a field"),
        ("evaluation.custom.mine.questoin", "is not a field"),
        ("selection.options.s2l.allocation_exponant", "Did you mean selection.options.s2l.allocation_exponent?"),
        ("selection.options.S2L", "did you mean 's2l'?"),
        ("frobnicate", "`s2l explain` lists the sections"),
        ("a..b", "is not a field"),
    ],
)
def test_what_is_no_field_is_answered_with_those_that_are_meant(path, hint):
    with pytest.raises(UserError, match=r"is not a field|unknown selector") as refused:
        describe(path)
    assert hint in str(refused.value)
