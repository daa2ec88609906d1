"""A setting that names what the data do not have is refused before anything starts, as far as first rows show it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from s2l_ray.cli import main
from s2l_ray.config import load_config
from s2l_ray.config.load import ConfigError
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.units import SourceError
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.stages.corpus.stage import check_corpus_files
from s2l_ray.stages.evaluation.tasks import check_evaluation
from s2l_ray.sweeps.trials import selecting
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl
from tests.support.report_runs import MadeRun

ROWS = [
    {"instruction": f"add {i}", "output": str(i), "origin": "ab"[i % 2], "topic": f"t{i % 5}", "rank": i % 3,
     "even": i % 2 == 0, "quality": i / 7, "note": "x" * 200}
    for i in range(400)
]  # fmt: skip


def config_of(folder: Path, kind: str = "jsonl", **changes: Any) -> S2LConfig:
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        write_jsonl(path, ROWS)
    tree = tiny_run_config(folder / "run", **changes)
    tree["corpus"] = {"paths": [str(path)], "source_column": None, **tree["corpus"]}
    del tree["corpus"]["quickstart"]
    return load_config(tree)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("column", "why"),
    [
        ("nope", "correct the name"),
        ("rank", "if it has few numbers or truth values, name it in corpus.facets"),
        ("even", "if it has few numbers or truth values, name it in corpus.facets"),
        ("note", "only columns with few short texts are found by themselves"),
        ("output", "prompts or responses are made from it; name it in corpus.facets"),
    ],
)
def test_what_can_be_no_facet_is_refused(tmp_path, kind, column, why):
    named = rf"stratify={column}: that column is not a facet of this corpus, because .*{why}"
    for where in ({"stratify": column}, {"options": {"s2l": {"stratify": column}}}):
        with pytest.raises(ConfigError, match=named):
            check_corpus_files(config_of(tmp_path, kind, selection=where))


def test_what_may_be_a_facet_is_not(tmp_path):
    for kind in ("jsonl", "parquet"):
        assert check_corpus_files(config_of(tmp_path, kind, selection__stratify="topic")) == []
        named = {"selection__stratify": "rank", "corpus__facets": ["rank", "even"]}
        assert check_corpus_files(config_of(tmp_path, kind, **named)) == []
        by_source = {"selection__stratify": True, "corpus__source_column": "origin"}
        assert check_corpus_files(config_of(tmp_path, kind, **by_source)) == []


def test_the_sources_and_what_is_dropped_are_no_facets(tmp_path):
    asked: dict[str, Any] = {"selection__stratify": "origin", "corpus__source_column": "origin"}
    with pytest.raises(ConfigError, match=r"it holds the sources; set stratify=true"):
        check_corpus_files(config_of(tmp_path, **asked))
    asked = {"selection__stratify": "topic", "corpus__drop_columns": ["topic"]}
    with pytest.raises(ConfigError, match=r"corpus\.drop_columns leaves it out"):
        check_corpus_files(config_of(tmp_path, **asked))


def test_facets_that_no_row_has(tmp_path):
    told = r"corpus\.facets names 'nope', which cannot be a facet, because .*'topic'"
    with pytest.raises(SourceError, match=told):
        check_corpus_files(config_of(tmp_path, "parquet", corpus__facets=["topic", "nope"]))
    [note] = check_corpus_files(config_of(tmp_path, corpus__facets=["topic", "nope"]))  # later rows may have it
    assert "none of the first 100 rows has it" in note
    for column, said in (("quality", "holds float"), ("note", "holds more than 100 characters")):
        with pytest.raises(SourceError, match=rf"no row could be used: column '{column}' {said}"):
            check_corpus_files(config_of(tmp_path, corpus__facets=[column]))


@pytest.mark.parametrize("selection", [{"stratify": True}, {"selectors": ["random_per_source"]}, {}])
def test_sources_that_no_row_has(tmp_path, selection):
    asked = {"selection": selection, "corpus__source_column": "domain"}
    with pytest.raises(ConfigError, match=r"corpus\.source_column=domain: no row has that column") as caught:
        check_corpus_files(config_of(tmp_path, "parquet", **asked))
    assert ("balancing by source" in str(caught.value)) is bool(selection)
    [note] = check_corpus_files(config_of(tmp_path, **asked))
    assert "none of the first 100 rows has it" in note
    asked["corpus__source_column"] = "source"  # the default: only refused where it is needed
    if not selection:
        assert check_corpus_files(config_of(tmp_path, "parquet", **asked)) == []


def test_a_column_of_later_files_is_found(tmp_path):
    write_jsonl(tmp_path / "more.jsonl", [row | {"late": "ab"[i % 2]} for i, row in enumerate(ROWS)])
    config = config_of(tmp_path, selection__stratify="late")
    with pytest.raises(ConfigError, match="none of the first 100 rows has it"):
        check_corpus_files(config)
    both = {"paths": [*config.corpus.paths, str(tmp_path / "more.jsonl")]}
    config = config.model_copy(update={"corpus": config.corpus.model_copy(update=both)})
    assert check_corpus_files(config) == []


def test_what_a_complete_corpus_has_is_not_refused(tmp_path):
    """Its facets are known from all rows."""
    made = MadeRun(tmp_path / "run", num_examples=150, targets=(), only_corpus=True)
    made.make()
    config = made.config.model_copy(
        update={
            "run_dir": str(made.folder),
            "selection": made.config.selection.model_copy(update={"stratify": "topic"}),
        }
    )
    assert check_corpus_files(config) == []
    (made.folder / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="no row has that column"):
        check_corpus_files(config)


def test_every_trial_of_a_sweep_is_asked(tmp_path):
    target: dict[str, Any] = {"target": dict(tiny_run_config(tmp_path)["proxy"]), "heldout": {"share": 0.1}}
    for sweep in ({"parameters": {"selection.stratify": [False, "topic", "nope"]}}, {"selectors": ["s2l_robust"]}):
        config = config_of(tmp_path, **target, sweep=sweep, selection__options={"s2l_robust": {"stratify": "nope"}})
        with pytest.raises(ConfigError, match="stratify=nope: that column is not a facet"):
            check_corpus_files(config, selecting(config))
    config = config_of(tmp_path, **target, sweep={"parameters": {"selection.stratify": [False, "topic"]}})
    assert check_corpus_files(config, selecting(config)) == []


def test_the_dry_run_is_refused(tmp_path, capsys):
    config = config_of(tmp_path)
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump(config.stored()))
    for settings, code in ((["selection.stratify=nope"], 2), (["selection.stratify=topic"], 0)):
        assert main(["run", str(file), *settings, "--dry-run"]) == code
        assert ("selection.stratify=nope: that column is not a facet" in capsys.readouterr().err) is (code == 2)
    assert main(["run", str(file), "corpus.facets=[nope]", "--dry-run", "--json"]) == 0
    assert any("corpus.facets names 'nope'" in note for note in json.loads(capsys.readouterr().out)["notes"])
    assert main(["run", "quickstart", f"run_dir={tmp_path}/q", "selection.stratify=nope", "--dry-run"]) == 2
    assert "no row has that column (there are ['instruction'" in capsys.readouterr().err


def test_a_split_that_a_saved_dataset_does_not_have(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "saved"))
    tree = tiny_run_config(tmp_path / "run")
    for split, fits in (("train", True), ("trian", False)):
        tree["corpus"] = {"huggingface": {"name": str(tmp_path / "saved"), "split": split}}
        if fits:
            assert check_corpus_files(load_config(tree)) == []
            continue
        with pytest.raises(SourceError, match=r"its splits are \['train'\]\. Set corpus\.huggingface\.split"):
            check_corpus_files(load_config(tree))


def test_groups_that_no_question_has(tmp_path):
    questions = write_jsonl(tmp_path / "q.jsonl", [{"question": f"{i}?", "answer": str(i), "level": "a"} for i in "12"])
    tree = tiny_run_config(tmp_path / "run")
    for columns in (["level"], ["level", "lvel"]):
        own = {"files": [str(questions)], "group_by": columns}
        config = load_config(tree | {"evaluation": {"tasks": ["custom"], "custom": {"mine": own}}})
        if columns == ["level"]:
            check_evaluation(config)
            continue
        with pytest.raises(EvaluationError, match=r"custom\.mine\.group_by names 'lvel'.*'level'"):
            check_evaluation(config)


def test_targets_that_a_run_does_not_have_are_refused_before_ray_starts(tmp_path, answering_model, capsys):
    run = MadeRun(tmp_path / "run", num_examples=150, num_clusters=2, targets=("full",)).make()
    questions = write_jsonl(tmp_path / "q.jsonl", [{"question": "1?", "answer": "1"}])
    asked = ["evaluation.custom.mine.files=[" + str(questions) + "]", "--tasks", "mine", "--subset", "fulll"]
    for options in (["--dry-run"], []):
        assert main(["evaluate", str(run), *asked, *options]) == 2
        err = capsys.readouterr().err
        assert "has no target 'fulll', so it cannot be evaluated (available: full, base)" in err
