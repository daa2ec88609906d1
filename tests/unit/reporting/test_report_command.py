"""Pages of runs that lack things, pages of large runs, and the command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.cli import main
from s2l_ray.reporting import contents, write
from s2l_ray.reporting.parts import Drawing
from s2l_ray.reporting.sections.clusters import clusters_section
from s2l_ray.reporting.write import MissingLibraries, facts_of, report_line, write_report
from tests.support.report_pages import Page, page_and_facts
from tests.support.report_runs import MadeRun
from tests.support.tiers import rest_thorough

# --- runs that lack things ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    rest_thorough(
        [
            {"only_corpus": True, "num_examples": 100},
            {"with_clusters": False, "num_examples": 200},
            {"targets": (), "num_examples": 200},
            {"targets": ("s2l-0.2",), "num_examples": 200},
            {"heldout": {"a": 30}, "selectors": ("s2l",), "targets": ("full", "s2l-0.2"), "num_examples": 200},
            {"num_snapshots": 1, "num_examples": 200, "targets": ()},
            {"num_clusters": 1, "num_examples": 200, "topics": ("only",), "sources": ("one",), "targets": ()},
            {"sources": tuple(f"source {i}" for i in range(300)), "num_examples": 2000},
        ],
        2,
    ),
    ids=[
        "corpus",
        "trajectories",
        "no target",
        "one target",
        "no random",
        "one snapshot",
        "one cluster",
        "many sources",
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
        assert missing.count("<code>s2l ") == 13


@pytest.mark.thorough
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
    """What is held grows by a cluster number and a subset's ids: 10⁷ examples take 600 MB and a page of 1.2 MB."""
    made = MadeRun(
        tmp_path / "run", num_examples=10**6, num_snapshots=12, num_clusters=500, examples_per_part=4096,
        topics=tuple(f"topic {i}" for i in range(100)),
        text=lambda row: ("q" * 3000, "a" * 3000) if row % 100 == 0 else ("q", "a"),
    )  # fmt: skip
    made.make()
    code = (
        "import sys; from s2l_ray.reporting.write import write_report; write_report(sys.argv[1]); "
        "from s2l_ray.storage.processes import peak_resident_bytes; print(peak_resident_bytes() >> 20)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(made.folder)], check=True, capture_output=True, text=True)
    assert int(out.stdout) < 1024
    assert (made.folder / "report" / "index.html").stat().st_size < 5_000_000


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("command") / "run"
    return MadeRun(folder, num_examples=200, targets=(), num_clusters=2).make()


@pytest.mark.thorough
def test_the_command_says_where_the_page_is_and_writes_elsewhere_if_asked(small, tmp_path, capsys):
    assert main(["report", str(small), "--out", str(tmp_path / "page.html"), "--by", "source"]) == 0
    assert capsys.readouterr().out.strip() == f"file://{tmp_path}/page.html"
    assert (tmp_path / "page.html").stat().st_size > 50_000
    assert json.loads((tmp_path / "page.facts.json").read_text())["clusters"]["column"] == "source"


def test_the_command_prints_the_numbers(small, capsys):
    assert main(["report", str(small), "--json", "--compare", str(small)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["stability"]["overlap"]["labels"][-1] == "run: random-0.2"


@pytest.mark.parametrize("idle", [["--out", "page.html"], ["--open"], ["--out", "page.html", "--open"]])
def test_numbers_alone_make_no_page_elsewhere(small, idle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(small), "--json", *idle]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{' and '.join(i for i in idle if i.startswith('--'))} would do nothing" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_a_credential_across_the_cut_of_a_text_is_not_shown(tmp_path, capsys):
    """In the page's examples and in `s2l inspect`, whose texts are cut at different lengths."""
    secret = "hf_" + "aB3dE5gH7j" * 4
    for limit in (contents.MAX_TEXT, 90):
        folder = tmp_path / str(limit)
        turns = "x" * (limit - 11) + " " + secret, "yes"
        texts = dict.fromkeys(range(200), turns)
        MadeRun(folder, num_examples=200, targets=(), num_clusters=2, text=texts.__getitem__).make()
        assert main(["inspect", str(folder), "--json"]) == 0
        shown = json.dumps(facts_of(load_run(str(folder))).plain()) + capsys.readouterr().out
        assert "xxx ***" in shown
        assert secret[:8] not in shown


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


@pytest.mark.thorough
def test_numbers_come_without_altair_ray_or_torch():
    code = "import s2l_ray.reporting.write, sys; print(sorted({'altair', 'ray', 'torch'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"
