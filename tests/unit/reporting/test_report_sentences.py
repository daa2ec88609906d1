"""Parts of sentences of the page's verdicts."""

from __future__ import annotations

import pytest

from s2l_ray.reporting.intervals import BETTER, UNDECIDED, WORSE
from s2l_ray.reporting.sentences import counted, listed, told_apart


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({BETTER: "in a"}, "is better than the full data in a"),
        ({WORSE: "in b"}, "is worse than the full data in b"),
        ({UNDECIDED: "in c"}, "cannot be distinguished from the full data in c"),
        ({WORSE: "in b", BETTER: "in a"}, "is better than the full data in a, but worse in b"),
        (
            {WORSE: "in b", UNDECIDED: "in c"},
            "is worse than the full data in b, and cannot be distinguished from it in c",
        ),
        ({}, ""),
    ],
)
def test_verdicts_on_one_baseline_are_one_clause(where, said):
    assert told_apart(where, "the full data") == said


def test_a_list_has_its_and_before_the_last():
    assert [listed("abc"[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


def test_verdicts_are_counted():
    assert counted([UNDECIDED, BETTER, BETTER]) == "Of 3 comparisons: 2 better, 1 not told apart."
    assert counted([WORSE]) == "One comparison: worse."
