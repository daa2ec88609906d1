"""The page: complete, equal to its facts, readable without JavaScript, the same again."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from typing import Any

import pytest

from s2l_ray.artifacts.run import load_run
from s2l_ray.reporting.parts import Figure, spans
from s2l_ray.reporting.write import facts_of, page_of
from tests.support.judged_runs import JudgedModels
from tests.support.report_pages import Page, page_and_facts
from tests.support.report_runs import MadeRun


@pytest.fixture(scope="module")
def swept(tmp_path_factory: Any) -> MadeRun:
    labels = [f"{selector}-{budget}" for selector in ("s2l", "random") for budget in (0.1, 0.2)]
    made = MadeRun(
        tmp_path_factory.mktemp("page") / "run", budgets=(0.1, 0.2), targets=("full", *labels), seeds=(0, 1),
        quarantined=(("a.jsonl", "no JSON"),),
    )  # fmt: skip
    made.make()
    made.sweep(tuned=True)
    JudgedModels(made, tasks=("gsm8k",), num_questions=40).judge()
    return made


@pytest.fixture(scope="module")
def whole(swept: MadeRun) -> tuple[str, dict[str, Any]]:
    return page_and_facts(swept.folder)


@pytest.mark.thorough
def test_every_section_is_there_with_heading_and_figures_with_title_and_axes(whole):
    page = Page(whole[0])
    ids = [a["id"] for a in page.all("section")]
    assert ids == ["worth", "tasks", "budgets", "cost", "contents", "clusters", "space", "purity", "stability",
                   "training", "examples", "aside", "subsets", "repeat", "missing"]  # fmt: skip
    assert re.findall(r"s2l gradients RUN|s2l sweep RUN", whole[0]) == ["s2l gradients RUN"] * 2, "all else is there"
    assert {a["aria-labelledby"] for a in page.all("section")} == {f"{i}-h" for i in ids}
    pictures = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(pictures) > 30
    assert all(a["aria-label"] for a in pictures)
    for svg in re.findall(r'<div class="panel">.*?</div>', whole[0], flags=re.DOTALL):
        assert any(
            unit in svg for unit in ("nats/token", "%", "FLOPs", "examples", "clusters", "learning rate", "points")
        )


def test_no_id_stands_twice_and_every_reference_leads_somewhere(whole):
    page = Page(whole[0])
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    for attributes in page.all("a"):
        assert str(attributes["href"])[1:] in ids
    for reference in re.findall(r"url\(#([^)]*)\)", whole[0]):
        assert reference in ids


def test_nothing_is_fetched_and_the_policy_names_exactly_what_runs(whole):
    page = Page(whole[0])
    [policy] = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    code = [s for s, a in zip(page.scripts, page.all("script"), strict=True) if a.get("type") != "application/json"]
    for kind, texts in (("script-src", code), ("style-src", page.styles)):
        [text] = texts
        digest = b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}';" in str(policy)
    assert str(policy).startswith("default-src 'none'")
    assert "unsafe" not in str(policy)
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "style", "srcset")], tag
        assert str(attributes.get("href", "#")).startswith("#")
    assert not {"iframe", "link", "img", "object", "embed", "base", "audio", "video"} & {t for t, _ in page.elements}
    assert "url(" not in re.sub(r"url\(#f\d+-[^)]*\)", "", whole[0])


def test_pictures_have_no_colour_that_dark_mode_does_not_know(whole):
    colours = re.findall(r'(?:fill|stroke)="(#[^"]*|[a-z]+)"', whole[0])
    assert set(colours) <= {"none", "transparent"}
    used = set(re.findall(r"var\(--([a-z0-9]+)\)", whole[0]))
    declared = set(re.findall(r"--([a-z0-9]+):#", whole[0]))
    assert used <= declared


@pytest.mark.thorough
def test_without_javascript_pictures_and_the_first_examples_are_there(whole):
    text, facts = whole
    html = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    shown = "".join(Page(html).texts)
    assert html.count('<tr id="x-') == 20
    for example in facts["examples"][:3]:
        assert all(said in shown for _, said in example["turns"])
    for needs_script in ("filters", "theme", "copy"):
        [attributes] = [a for _, a in Page(html).elements if a.get("id") == needs_script]
        assert "hidden" in attributes


def test_the_other_examples_come_as_data(whole):
    text, facts = whole
    [data] = [s for s, a in zip(Page(text).scripts, Page(text).all("script"), strict=True) if a.get("type")]
    assert [e["id"] for e in json.loads(data)] == [e["id"] for e in facts["examples"][20:]]


def numbers_of(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers_of(v)]
    if isinstance(value, list):
        return [n for v in value for n in numbers_of(v)]
    return [float(value)] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def test_every_number_of_the_verdict_and_the_key_figures_stands_in_the_facts(whole):
    text, facts = whole
    known = numbers_of(facts)
    keys = " ".join(re.findall(r"<dd>(.*?)</dd>", re.findall(r'<dl class="key">.*?</dl>', text, re.DOTALL)[0]))
    for shown in [*facts["verdict"], keys]:
        plain = re.sub(r"“.*?”|S2L|95.%", "", shown).replace("−", "-")
        for number, unit in re.findall(r"([+-]?\d[\d,]*\.?\d*)(.(?:%|points))?", plain):
            value, digits = abs(float(number.replace(",", ""))), len(number.partition(".")[2])
            is_share = bool(unit.strip()) or "points" in shown  # the ends of an interval of points have no unit
            scales = [100] if unit.strip() else [1, 100] if is_share else [1]
            near = [n for n in known for scale in scales if abs(abs(n) * scale - value) <= 0.51 * 10.0**-digits]
            assert near, (number, unit, shown)


def test_tables_hold_the_numbers_of_the_facts(whole):
    text, facts = whole
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    for score in facts["worth"]["scores"]:
        if score["source"] is None and score["metric"] == "loss":
            e = score["estimate"]
            wanted = [f"{e['value']:.3f}", f"{e['low']:.3f} to {e['high']:.3f}"]
            assert any(row[-2:] == wanted for row in cells)
    for cluster in facts["clusters"]["clusters"]:
        wanted = [str(cluster["cluster"]), f"{cluster['size']:,}", f"{cluster['taken']:,}"]
        assert any(row[:3] == wanted for row in cells)
    for name, count in facts["set_aside"]["counts"]:
        assert any(row == [name, f"{count:,}"] for row in cells)


def test_marks_say_what_they_are(whole):
    text, facts = whole
    tips = [str(a["data-tip"]) for _, a in Page(text).elements if "data-tip" in a]
    for score in facts["worth"]["scores"]:
        if score["source"] is None and score["metric"] == "loss":
            value = f"{score['estimate']['value']:.3f}"
            assert any(value in tip and score["heldout_set"] in tip for tip in tips)


def test_the_curves_of_a_sweep_are_relative_to_the_full_data(swept, whole):
    points = whole[1]["budgets"]["points"]
    for point in points:
        if point["heldout_set"] and point["phase"] == "target":
            label = "full" if point["selector"] == "full" else f"{point['selector']}-{round(point['share'], 3)}"
            macros = [swept.trained[label, seed]["results"][point["heldout_set"]]["macro"] for seed in (0, 1)]
            full = [swept.trained["full", seed]["results"][point["heldout_set"]]["macro"] for seed in (0, 1)]
            assert point["estimate"]["value"] == pytest.approx(sum(macros) / 2)
            assert point["relative"]["value"] == pytest.approx(sum(macros) / sum(full) * 100)
            assert point["estimate"]["low"] < point["estimate"]["value"] < point["estimate"]["high"]
    assert {p["heldout_set"] for p in points} == {"", "balanced", "split"}
    assert "smallest budget tried" in whole[0]


@pytest.mark.thorough
def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = load_run(str(MadeRun(tmp_path / "run", num_examples=200, targets=(), num_clusters=2).make()))
    assert page_of(facts_of(run)) == page_of(facts_of(run))


def test_every_budget_is_drawn_and_one_is_shown_at_a_time(whole):
    text = whole[0]
    page = Page(text)
    radios = [a for a in page.all("input") if a.get("type") == "radio"]
    names = {str(a["name"]) for a in radios}
    assert len(names) == 2  # by topic and by source
    for name in names:
        mine = [a for a in radios if a["name"] == name]
        assert [("checked" in a) for a in mine] == [True, False, False]  # 10 %, 20 %, several budgets
        assert {a["id"] for a in mine} <= {a.get("for") for a in page.all("label")}
    views = re.findall(r'<div class="view">.*?<p class="caption">', text, flags=re.DOTALL)
    assert len(views) == 6
    assert all("<svg" in view for view in views)
    assert sum("20\u00a0% of S2L" in view or "S2L 20\u00a0%" in view for view in views) >= 4


def test_rows_of_figures_are_full():
    def figure(num: int) -> Figure:
        return Figure("", ["<svg/>"] * num, "")

    assert spans([figure(n) for n in (2, 1, 1, 1, 1, 3, 1)]) == [
        "two-thirds", "third", "third", "third", "third", "whole", "whole",
    ]  # fmt: skip
    assert spans([figure(1), figure(1), figure(2)]) == ["half", "half", "whole"]
    assert spans([figure(1), figure(0), figure(1), figure(5)]) == ["whole", "whole", "whole", "whole"]
