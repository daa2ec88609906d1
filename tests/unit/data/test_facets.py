"""Facets: which columns they are, and how they travel from the rows to reports, inspection and strata."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from s2l_ray.artifacts.run import load_run
from s2l_ray.config import ConfigError, CorpusConfig, load_config
from s2l_ray.data.columns import Columns
from s2l_ray.data.corpus_parts import READ_SCHEMA, HoldOut, part_name, write_part
from s2l_ray.data.example_id import ids_to_array
from s2l_ray.data.facet_reader import load_facet
from s2l_ray.data.facets import FacetValues, choose_facets
from s2l_ray.data.quickstart import generate_corpus
from s2l_ray.data.read_task import to_record
from s2l_ray.data.units import RawRow, SourceError, UnusableRow
from s2l_ray.errors import UserError
from s2l_ray.reporting.inspect import inspect_run
from s2l_ray.selection import needs_of, order_examples, resolve_options
from s2l_ray.stages.subset.build import build_subset
from s2l_ray.stages.subset.inputs import InputsReader, SubsetSources
from s2l_ray.storage.folder import Storage
from tests.support.report_runs import MadeRun

Row = dict[str, Any]
PLAIN = CorpusConfig(paths=["a"])


def rows_of(num: int, **columns: Any) -> list[Row]:
    """`columns`: name → value of row i."""
    return [{"prompt": f"p{i}", "completion": "c"} | {n: value(i) for n, value in columns.items()} for i in range(num)]


def found(rows: list[Row], **options: Any) -> dict[str, int]:
    config = CorpusConfig(paths=["a"], **options)
    columns, values = Columns(), FacetValues(None if config.facets is None else tuple(config.facets))
    for row in rows:
        columns.add(row)
        values.add(row)
    return choose_facets(values, columns.names(), len(rows), config)


# --- which columns ----------------------------------------------------------------------------------------------------


def test_the_quickstarts_skills_are_one():
    rows, _ = generate_corpus(num_train=600)
    assert found(rows) == {"skill": len({row["skill"] for row in rows})}


@pytest.mark.parametrize(
    ("column", "is_facet"),
    [
        (lambda i: f"t{i % 3}", True), (lambda i: f"t{i % 3}" if i % 2 else None, True),
        (lambda i: f"t{i % 200}", True), (lambda i: f"t{i % 201}", False), (lambda i: "same", False),
        (lambda i: f"id{i}", False),
        (lambda i: i % 3, False), (lambda i: "x" * 101 if i == 7 else f"t{i % 3}", False),
        (lambda i: 5 if i == 7 else f"t{i % 3}", False), (lambda i: [f"t{i % 3}"], False),
    ],
)  # fmt: skip
def test_columns_of_text_with_few_values_are_found(column, is_facet):
    assert ("topic" in found(rows_of(900, topic=column))) == is_facet


def test_small_corpora_have_no_ids_for_facets():
    assert found(rows_of(12, name=lambda i: f"n{i // 2}")) == {}


def test_text_of_the_example_and_the_source_are_none_and_eight_are_enough():
    rows = rows_of(100, source=lambda i: f"s{i % 2}", system=lambda i: f"s{i % 2}", b=lambda i: f"b{i % 2}")
    assert list(found(rows)) == ["b"]
    assert list(found(rows, source_column="b")) == ["source"]
    template = {"prompt": "{prompt}", "response": "{b}"}
    assert list(found(rows, template=template)) == ["system"]
    many = rows_of(40, **{f"f{i:02}": (lambda i: f"v{i % 2}") for i in range(12)})
    assert list(found(many)) == [f"f{i:02}" for i in range(8)]


def test_the_same_facets_however_the_rows_are_divided():
    rows = rows_of(500, a=lambda i: f"a{i % 4}", b=lambda i: f"b{i % 250}", c=lambda i: None if i < 300 else "c")
    for seed in range(5):
        shuffled = random.Random(seed).sample(rows, len(rows))
        total = FacetValues()
        for start in range(0, 500, 100):
            part = FacetValues()
            for row in shuffled[start : start + 100]:
                part.add(row)
            total.merge(FacetValues.from_plain(json.loads(json.dumps(part.to_plain()))))
        assert choose_facets(total, ["a", "b", "c"], 500, PLAIN) == {"a": 4}


def test_named_facets():
    rows = rows_of(300, level=lambda i: i % 5, wrong=lambda i: i % 2 == 0, id=lambda i: f"id{i}")
    assert found(rows, facets=["wrong", "level", "id"]) == {"wrong": 2, "level": 5, "id": 300}
    assert found(rows, facets=[]) == {}
    with pytest.raises(SourceError, match=r"corpus\.facets names 'topic', which no row has, .* \['prompt'"):
        found(rows, facets=["topic"])
    with pytest.raises(SourceError, match=r"'id', which has more than 1,000 values"):
        found(rows_of(1001, id=lambda i: f"id{i}"), facets=["id"])
    for value, why in ((1.5, "holds float, which cannot"), (["x"], "holds list, which"), ("x" * 101, "more than 100")):
        with pytest.raises(UnusableRow, match=why):
            found([{"a": value}], facets=["a"])


def test_contradictions_are_refused():
    tree = {"corpus": {"paths": ["a"], "facets": ["a"], "drop_columns": ["a"]}, "proxy": {"model": "m"}}
    with pytest.raises(ConfigError, match=r"corpus\.facets and corpus\.drop_columns both name 'a'"):
        load_config(tree)
    with pytest.raises(ConfigError, match=r"corpus\.facets lists 'a' twice"):
        load_config({"corpus": {"paths": ["a"], "facets": ["a", "a"]}, "proxy": {"model": "m"}})


# --- how they travel --------------------------------------------------------------------------------------------------


def write(rows: list[Row], out: Storage, facets: list[str]) -> pa.Table:
    records = [to_record(RawRow("a", i, row), row, PLAIN, "prompt_completion") for i, row in enumerate(rows)]
    table = pa.Table.from_pylist(records, schema=READ_SCHEMA)
    return write_part(table.append_column("part", pa.array([0] * len(rows))), "keep", out, HoldOut(), facets)


@pytest.mark.parametrize("duplicates", [False, True])
def test_parts_have_them_beside_the_ids_and_the_fingerprint_does_not_depend_on_it(tmp_path, duplicates):
    rows = rows_of(50, topic=lambda i: None if i % 7 == 0 else f"t{i % 3}", good=lambda i: i % 2 == 0)
    rows += rows[:20] if duplicates else []
    stats = write(rows, Storage.open(tmp_path / "a"), ["topic", "good"]).to_pylist()[0]
    plain = write(rows, Storage.open(tmp_path / "b"), []).to_pylist()[0]
    assert stats["fingerprint"] == plain["fingerprint"]
    examples = Storage.open(tmp_path / "a").sub("examples")
    table = examples.read_table(part_name(0))
    assert table.schema.field("facet:topic").type == pa.dictionary(pa.int32(), pa.string())
    for row in table.to_pylist():
        own = json.loads(row["row"])
        assert row["facet:topic"] == own["topic"]
        assert row["facet:good"] == json.dumps(own["good"])
    ids = ids_to_array(table["example_id"])[::-1]
    names, codes = load_facet(examples, [(0, len(ids))], ids, "topic")
    assert [names[c] or None for c in codes] == table["facet:topic"].to_pylist()[::-1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    run = MadeRun(tmp_path_factory.mktemp("facets") / "run", num_examples=600, targets=())
    run.make()
    return run


def sources_of(made: MadeRun, facets: list[str]) -> SubsetSources:
    run = load_run(str(made.folder))
    storage = {name: run.stage(name).storage for name in ("trajectories", "corpus", "clusters")}
    examples = storage["corpus"].sub("examples")
    return SubsetSources(storage["trajectories"], made.parts, examples, storage["clusters"], "template", None, facets)


def build(sources: SubsetSources, selector: str, stratify: bool | str, out: Storage) -> None:
    options = resolve_options(selector, {"stratify": stratify} if stratify else {})
    inputs = InputsReader(sources).read(needs_of(selector, options))
    ordering = order_examples(selector, inputs, 0, options)
    build_subset(sources, inputs, ordering, options, 200, out, wait_s=60, say=print)


def test_subsets_have_them_beside_the_ids_and_not_in_the_rows(made, tmp_path):
    sources = sources_of(made, ["topic"])
    out = Storage.open(tmp_path)
    build(sources, "random", False, out)
    table = out.read_table("ids.parquet")
    where = {i: n for n, i in enumerate(map(tuple, made.ids.tolist()))}
    expected = [made.topics[made.topic_codes[where[tuple(i)]]] for i in ids_to_array(table["example_id"]).tolist()]
    assert table["facet:topic"].to_pylist() == expected
    assert "facet" not in out.read_bytes("subset.jsonl").decode()
    assert out.read_table("subset.parquet").column_names[:2] == ["instruction", "topic"]


def test_a_facet_can_be_balanced(made, tmp_path):
    sources = sources_of(made, ["topic"])
    build(sources, "s2l", "topic", Storage.open(tmp_path / "a"))
    taken = Counter(Storage.open(tmp_path / "a").read_table("ids.parquet")["facet:topic"].to_pylist())
    sizes = Counter(made.topics[code] for code in made.topic_codes)
    assert sum(taken.values()) == 200
    assert all(taken[topic] in (50, sizes[topic]) for topic in made.topics)
    with pytest.raises(UserError, match=r"'language': that column is not a facet .*\['topic'\].*corpus\.facets"):
        build(sources, "s2l", "language", Storage.open(tmp_path / "b"))


def test_inspection_by_a_facet(made):
    run = load_run(str(made.folder))

    def shown(**options: Any) -> str:
        out = io.StringIO()
        console = Console(file=out, width=240)
        inspect_run(run, console, 1, 0, **options)
        return out.getvalue()

    lines = shown(by="topic").splitlines()
    at = next(i for i, line in enumerate(lines) if "by topic" in line)
    size = int((made.topic_codes == 0).sum())
    taken = int((made.topic_codes[made.chosen["random-0.2"]] == 0).sum())
    first, last = (made.losses[made.topic_codes == 0].mean(axis=0)[[0, -1]]).tolist()
    line = next(line for line in lines[at:] if "add" in line)
    for cell in (f"{size:,}", f"{size / 600:.1%}", f"{first:.2f} → {last:.2f}", f"{taken} ({taken / 120:.1%})"):
        assert cell in line
    assert "most common topic" in "\n".join(lines)
    assert "books" in shown(by="source")
    with pytest.raises(UserError, match=r"'skill' is not a facet .*\['topic', 'source'\].*corpus\.facets"):
        shown(by="skill")


def test_the_configurations_stratum_must_be_a_facet(made):
    from s2l_ray.stages.corpus.stage import check_stratum

    stage = load_run(str(made.folder)).stage("corpus")
    for by, fits in (("topic", True), (True, True), ("skill", False)):
        config = made.config.model_copy(update={"selection": made.config.selection.model_copy(update={"stratify": by})})
        if fits:
            check_stratum(config, stage)
        else:
            with pytest.raises(ConfigError, match=r"selection\.stratify=skill: .*\['topic'\].*corpus\.facets"):
                check_stratum(config, stage)
    budgets = load_config("quickstart", ["selection.stratify=skill", "target.subsets=[]"]).subset_budgets()
    assert any(name.startswith("s2l_robust-stratified") for name in budgets)
