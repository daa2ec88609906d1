"""The page: complete, inert whatever the corpus holds, readable without JavaScript, the same again, and small."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.cli import main
from s2l_ray.reporting import write
from s2l_ray.reporting.parts import Drawing
from s2l_ray.reporting.sections.clusters import clusters_section
from s2l_ray.reporting.write import MissingLibraries, facts_of, page_of, report_line, write_report
from tests.support.report_runs import MadeRun

HOSTILE = (
    "<script>window.hit=1</script>",
    '"><img src=x onerror="window.hit=1">',
    "</script><script>window.hit=1</script>",
    "<svg onload=window.hit=1>",
    "{{ 7*7 }}{% raw %}",
    "line\u2028separator\u2029",
    "right\u202eleft",
    "nul\x00bell\x07escape\x1b[31m",
    "${7*7} 'datum.value' \\ ` 😀",
    "http://example.org/?q=<b>",
)


class Page(HTMLParser):
    """What a browser would make of the text: elements, attributes, and what stands in script elements."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.texts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
        if tag == "style":
            self.styles.append("")

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "style":
            self.styles[-1] += data
        else:
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_and_facts(folder: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    text = Path(write_report(str(folder), **options)).read_text(encoding="utf-8")
    return text, json.loads((folder / "report" / "facts.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: Any) -> MadeRun:
    labels = [f"{selector}-{budget}" for selector in ("s2l", "random") for budget in (0.1, 0.2)]
    made = MadeRun(
        tmp_path_factory.mktemp("page") / "run", budgets=(0.1, 0.2), targets=("full", *labels), seeds=(0, 1),
        quarantined=(("a.jsonl", "no JSON"),),
    )  # fmt: skip
    made.make()
    made.sweep(tuned=True)
    return made


@pytest.fixture(scope="module")
def whole(swept: MadeRun) -> tuple[str, dict[str, Any]]:
    return page_and_facts(swept.folder)


def test_every_section_is_there_with_heading_and_figures_with_title_and_axes(whole):
    page = Page(whole[0])
    ids = [a["id"] for a in page.all("section")]
    assert ids == ["worth", "budgets", "cost", "contents", "clusters", "space", "purity", "stability", "training",
                   "examples", "aside", "subsets", "repeat"]  # fmt: skip
    assert {a["aria-labelledby"] for a in page.all("section")} == {f"{i}-h" for i in ids}
    pictures = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(pictures) > 30
    assert all(a["aria-label"] for a in pictures)
    for svg in re.findall(r'<div class="panel">.*?</div>', whole[0], flags=re.DOTALL):
        assert "nats/token" in svg or "%" in svg or "FLOPs" in svg or "examples" in svg or "clusters" in svg


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
            value = float(number.replace(",", "")) / (100 if unit.strip() else 1)
            digits = len(number.partition(".")[2]) + (2 if unit.strip() else 0)
            tolerance = 0.51 * 10.0**-digits
            near = [n for n in known if abs(abs(n) - abs(value)) <= tolerance]
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


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = load_run(str(MadeRun(tmp_path / "run", num_examples=200, targets=(), num_clusters=2).make()))
    assert page_of(facts_of(run)) == page_of(facts_of(run))


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


def test_overlapping_intervals_and_one_seed_are_never_better(tmp_path):
    facts = facts_of(run_with(tmp_path / "run", 0.0))
    assert all("cannot be told apart from" in line for line in facts.verdict)
    page = page_of(facts)
    assert facts.verdict[0] in "".join(Page(page).texts)
    axes = r"(?:more|less|left|right) is better"
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
    worth = Worth(metrics, ["split"], [], scores, [loss, exact], 1)
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


def test_hostile_text_is_text_everywhere(hostile, whole):
    page = Page(hostile[0])
    plain = {tag for tag, _ in Page(whole[0]).elements}
    assert {tag for tag, _ in page.elements} <= plain
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


# --- runs that lack things ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"only_corpus": True, "num_examples": 100},
        {"with_clusters": False, "num_examples": 200},
        {"targets": (), "num_examples": 200},
        {"targets": ("s2l-0.2",), "num_examples": 200},
        {"num_snapshots": 1, "num_examples": 200, "targets": ()},
        {"num_clusters": 1, "num_examples": 200, "topics": ("only",), "sources": ("one",), "targets": ()},
        {"sources": tuple(f"source {i}" for i in range(300)), "num_examples": 2000},
        {"heldout": {"a": 30}, "selectors": ("s2l",), "targets": ("full", "s2l-0.2"), "num_examples": 200},
    ],
    ids=[
        "corpus",
        "trajectories",
        "no target",
        "one target",
        "one snapshot",
        "one cluster",
        "many sources",
        "no random",
    ],
)
def test_every_run_has_a_page_and_nothing_undefined_in_it(tmp_path, options):
    made = MadeRun(tmp_path / "run", **{"num_clusters": 3, "heldout": {"test": 60}, **options})
    text, facts = page_and_facts(made.make())
    page = Page(text)
    said = " ".join([*page.texts, *(str(a.get("aria-label", "")) for _, a in page.elements)])
    assert not re.findall(r"\b(?:nan|None|undefined|NaN|inf)\b", said)
    assert len(text) < 1_500_000
    assert facts["name"] == "made"
    missing = text.partition('<section id="missing"')[2]
    assert "What is it worth?" in (missing if facts["worth"] is None else text)
    if options.get("only_corpus"):
        assert "made: not finished" in text
        assert missing.count("<code>s2l ") == 11


def test_many_clusters_have_a_bounded_number_of_cards_and_examples(tmp_path):
    made = MadeRun(
        tmp_path / "run", num_examples=3000, num_clusters=300, targets=(), text=lambda row: ("q" * 3000, "a"),
        topics=tuple(f"topic {i}" for i in range(60)),
    )  # fmt: skip
    facts = facts_of(load_run(str(made.make())))
    assert facts.clusters is not None
    assert len(facts.clusters.clusters) > 200
    assert 300 < len(facts.examples) <= 720
    assert sum(len(text) for e in facts.examples for _, text in e.turns) <= 1_300_000
    section = clusters_section(facts, Drawing(facts, lambda chart, prefix, label: ""))
    assert section is not None
    sizes = [int(card["size"]) for card in section.content]
    assert len(sizes) == 120
    everyone = [c.size for c in facts.clusters.clusters]
    assert sizes == everyone[:60] + everyone[-60:]


@pytest.mark.slow
def test_a_million_examples_in_500_clusters_have_a_page_of_less_than_5_mb(tmp_path):
    """10⁷ differ in nothing that is held: the passes hold one part, a cluster number and a byte of choices a row."""
    made = MadeRun(
        tmp_path / "run", num_examples=10**6, num_snapshots=12, num_clusters=500, examples_per_part=4096,
        topics=tuple(f"topic {i}" for i in range(100)), 
        text=lambda row: ("q" * 3000, "a" * 3000) if row % 100 == 0 else ("q", "a"),
    )  # fmt: skip
    made.make()
    code = (
        "import sys; from s2l_ray.reporting.write import write_report; write_report(sys.argv[1]); "
        "from s2l_ray.storage.processes import peak_resident_bytes; print(peak_resident_bytes() >> 10)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(made.folder)], check=True, capture_output=True, text=True)
    assert int(out.stdout) < 1024
    assert (made.folder / "report" / "index.html").stat().st_size < 5_000_000


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("command") / "run"
    return MadeRun(folder, num_examples=200, targets=(), num_clusters=2).make()


def test_the_command_says_where_the_page_is_and_writes_elsewhere_if_asked(small, tmp_path, capsys):
    assert main(["report", str(small), "--out", str(tmp_path / "page.html"), "--by", "source"]) == 0
    assert capsys.readouterr().out.strip() == f"file://{tmp_path}/page.html"
    assert (tmp_path / "page.html").stat().st_size > 50_000
    assert json.loads((tmp_path / "page.facts.json").read_text())["clusters"]["column"] == "source"


def test_the_command_prints_the_numbers(small, capsys):
    assert main(["report", str(small), "--json", "--compare", str(small)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["stability"]["overlap"]["labels"][-1] == "run: random-0.2"


def test_no_run_is_said_and_nothing_is_written(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_one_line_names_it(small, monkeypatch, capsys):
    monkeypatch.setitem(write._LIBRARIES, "no_such_module", "altair")
    assert main(["report", str(small)]) == 2
    assert capsys.readouterr().err.strip() == 's2l: the report needs altair: pip install "s2l_ray[report]"'
    with pytest.raises(MissingLibraries):
        write_report(str(small))
    assert 'pip install "s2l_ray[report]"' in report_line(load_run(str(small)))
    assert main(["report", str(small), "--json"]) == 0


def test_a_report_that_fails_ends_no_command(small, monkeypatch):
    def fail(run: Run) -> str:
        raise RuntimeError("no\nluck")

    monkeypatch.setattr(write, "write_report", fail)
    line = report_line(load_run(str(small)))
    assert "could not be made" in line
    assert "\n" not in line


def test_damage_is_refused_by_name(tmp_path, capsys):
    made = MadeRun(tmp_path / "run", num_examples=200)
    made.make()
    [file] = made.folder.glob("clusters/*/assignment.parquet")
    file.write_bytes(file.read_bytes()[:-40])
    assert main(["report", str(made.folder)]) != 0
    assert "assignment.parquet" in capsys.readouterr().err


def test_charts_are_altairs_for_notebooks():
    import altair as alt

    from s2l_ray.reporting.charts.contents import fates
    from s2l_ray.reporting.facts import SetAside

    chart = fates(SetAside([("read", 10), ("chosen", 2)], [], []))
    assert isinstance(chart, alt.LayerChart)
    assert chart.to_dict()["layer"]


def test_the_wheel_holds_template_style_and_script():
    from importlib import resources

    names = {entry.name for entry in resources.files("s2l_ray.reporting").iterdir()}
    assert {"report.html.j2", "report.css", "report.js"} <= names


def test_numbers_come_without_altair_ray_or_torch():
    code = "import s2l_ray.reporting.write, sys; print(sorted({'altair', 'ray', 'torch'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"
