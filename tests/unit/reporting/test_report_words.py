"""What the words of a page may say, and texts that mean harm: inert whatever the corpus holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.reporting.write import facts_of, page_of
from tests.support.report_pages import HOSTILE, Page, page_and_facts
from tests.support.report_runs import MadeRun


@pytest.fixture(scope="module")
def plain_tags(tmp_path_factory: Any) -> set[str]:
    """Elements of a page without foreign markup."""
    folder = MadeRun(tmp_path_factory.mktemp("plain") / "run", num_examples=240, quarantined=(("a", "b"),)).make()
    return {tag for tag, _ in Page(page_and_facts(folder)[0]).elements}


# --- what the words may say -----------------------------------------------------------------------------------------


def run_with(folder: Path, gain: float, num: int = 400) -> Run:
    """A run whose S2L target has losses lower by `gain` than the others', on `num` held-out examples."""
    gains = {"s2l-0.2": gain, "random-0.2": 0.0}
    made = MadeRun(folder, num_examples=300, num_clusters=2, gains=gains, heldout={"test": num})
    return load_run(str(made.make()))


@pytest.mark.parametrize(("gain", "word"), [(0.3, "is better than"), (-0.3, "is worse than")])
def test_intervals_that_leave_zero_out_tell_apart(tmp_path, gain, word):
    verdict = facts_of(run_with(tmp_path / "run", gain)).verdict
    assert len(verdict) == 2
    assert all(word in line for line in verdict)


@pytest.mark.thorough
def test_overlapping_intervals_and_one_seed_are_never_better(tmp_path):
    facts = facts_of(run_with(tmp_path / "run", 0.0))
    assert all("cannot be distinguished from" in line for line in facts.verdict)
    page = page_of(facts)
    assert facts.verdict[0] in "".join(Page(page).texts)
    axes = r"(?:higher|lower|left|right) is better"
    assert "better" not in re.sub(axes, "", re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL))
    assert "One seed" in page


def test_a_handful_of_examples_tells_nothing(tmp_path):
    facts = facts_of(run_with(tmp_path / "run", 0.5, num=9))
    assert all("9 examples are too few to tell" in line for line in facts.verdict)


def test_metrics_that_disagree_are_both_named(tmp_path):
    from s2l_ray.reporting.facts_worth import Difference, MetricFacts, Score, Worth
    from s2l_ray.reporting.intervals import Estimate
    from s2l_ray.reporting.worth import verdict_lines

    metrics = [MetricFacts("loss", "held-out loss", "nats/token", False, False),
               MetricFacts("exact_match", "exact matches", "% of examples", True, True)]  # fmt: skip
    values = {("loss", "s2l-0.2"): 0.25, ("loss", "random-0.2"): 0.36, ("exact_match", "s2l-0.2"): 0.68,
              ("exact_match", "random-0.2"): 0.723}  # fmt: skip
    scores = [Score(m, "split", label, 900, Estimate(v)) for (m, label), v in values.items()]
    loss = Difference("loss", "split", "s2l-0.2", "random-0.2", 900, Estimate(-0.11, -0.15, -0.07), "better")
    exact = Difference("exact_match", "split", "s2l-0.2", "random-0.2", 900, Estimate(-0.043, -0.076, -0.006), "worse")
    worth = Worth(metrics, ["split"], [], scores, [loss, exact], [], 1)
    [line] = verdict_lines(worth, "s2l-0.2", {"s2l-0.2": "S2L 20 %", "random-0.2": "random 20 %"})
    assert line.replace("\u00a0", " ") == (
        "On “split”, S2L 20 % is better than random 20 % in held-out loss (0.250 against 0.360; −0.110, 95 % interval "
        "−0.150 to −0.070), but worse in exact matches (68.0 % against 72.3 %; −4.3 points, 95 % interval −7.6 to "
        "−0.6)."
    )


# --- corpora that mean harm -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: Any) -> tuple[str, dict[str, Any]]:
    made = MadeRun(
        tmp_path_factory.mktemp("hostile") / "run", num_examples=240, num_clusters=3, sources=HOSTILE,
        topics=tuple(f"topic {text}" for text in HOSTILE), examples_per_part=64,
        text=lambda row: (HOSTILE[row % 10], HOSTILE[(row + 3) % 10] + "x" * 2000 * (row % 7 == 0)),
        quarantined=tuple((f"data/{text}.jsonl", f"reason {text}") for text in HOSTILE),
    )  # fmt: skip
    return page_and_facts(made.make())


@pytest.mark.thorough
def test_hostile_text_is_text_everywhere(hostile, plain_tags):
    page = Page(hostile[0])
    assert {tag for tag, _ in page.elements} <= plain_tags
    assert len(page.scripts) == 2
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
    shown = "".join(page.texts)
    assert "<script>window.hit=1</script>" in shown
    assert "{{ 7*7 }}{% raw %}" in shown
    assert "49" not in re.findall(r"topic.{0,40}", shown)


def test_what_cannot_be_seen_is_shown_as_its_code(hostile):
    for invisible in ("\u2028", "\u2029", "\u202e", "\x00", "\x07", "\x1b"):
        assert invisible not in hostile[0]
    assert "right\\u202eleft" in "".join(Page(hostile[0]).texts)


def test_long_fields_are_cut_and_the_page_says_so(hostile):
    text, facts = hostile
    cut = [e for e in facts["examples"] if e["num_cut"]]
    assert cut
    assert all(len(said) <= 1500 + 600 for e in cut for _, said in e["turns"])
    assert "of them are cut" in text


def test_credentials_are_not_in_the_page(tmp_path):
    secret = "sk-proj-aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5zA7bC9dE1fG3"
    made = MadeRun(tmp_path / "run", num_examples=200, text=lambda row: (f"api_key={secret}", "yes"))
    facts = facts_of(load_run(str(made.make())))
    assert facts.examples
    assert secret not in json.dumps(facts.plain())


@pytest.mark.thorough
def test_no_text_leaves_the_corpus_out_of_page_and_facts(tmp_path):
    made = MadeRun(
        tmp_path / "run",
        num_examples=200,
        targets=(),
        num_clusters=2,
        text=lambda row: (f"patient number {row}", "ill"),
    )
    text, facts = page_and_facts(made.make(), with_text=False)
    assert "patient number" not in text
    assert "patient number" not in json.dumps(facts)
    assert "Read the examples" in text  # named among what is not in this run


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("selectors", "said"),
    [
        (("s2l", "random"), r"The two subsets have [\d.]+\s% of their union in common\."),
        (("s2l", "random", "random_per_source"), r"Any two of these 3 subsets have between [\d.]+\s% and [\d.]+\s%"),
    ],
)  # fmt: skip
def test_what_subsets_have_in_common_is_said_of_two_and_of_more(tmp_path, selectors, said):
    folder = MadeRun(tmp_path / "run", num_examples=240, selectors=selectors).make()
    assert re.search(said, page_and_facts(folder)[0])
