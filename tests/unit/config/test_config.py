"""The configuration: what is accepted, what is refused and with which words; recipes and their dry runs."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pydantic
import pytest
import ray
import yaml

from s2l_ray.cli import main
from s2l_ray.config import S2LConfig, list_recipes, load_config, to_yaml
from s2l_ray.config.load import ConfigError
from s2l_ray.errors import UserError
from s2l_ray.storage.folder import Storage
from tests.support.configurations import MINIMAL, SCRATCH, refused

RECIPES = ["clinical_summaries", "mathinstruct_pythia70m", "maths_curve", "quickstart"]


# --- recipes --------------------------------------------------------------------------------------------------------


def test_the_recipes_are_these_and_load():
    assert list_recipes() == RECIPES
    for name in RECIPES:
        assert load_config(name).name == name


def test_mathinstruct_recipe_is_the_papers_setting():
    config = load_config("mathinstruct_pythia70m")
    assert config.corpus.huggingface is not None
    assert config.corpus.huggingface.name == "TIGER-Lab/MathInstruct"
    proxy = config.proxy
    assert (proxy.model, proxy.epochs, proxy.global_batch_size) == ("EleutherAI/pythia-70m-deduped", 3, 128)
    assert (proxy.learning_rate, proxy.warmup_share, proxy.max_length) == (2e-5, 0.03, 512)
    assert (config.trajectories.num_scored, config.clusters.num_clusters) == (12, 100)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_dry_runs_and_starts_nothing(recipe, tmp_path, monkeypatch, capsys):
    def forbidden(*_args: Any, **_options: Any) -> None:
        pytest.fail("a dry run started Ray")

    monkeypatch.chdir(tmp_path)  # no data, no runs: a checkout anywhere
    monkeypatch.setattr(ray, "init", forbidden)
    before = ray.is_initialized()
    code = main(["run", recipe, "--dry-run", "--resolved"])
    assert ray.is_initialized() == before
    assert list(tmp_path.iterdir()) == []
    out, err = capsys.readouterr()
    assert "Dry run: nothing was started." in out
    what, differing, resolved = re.split("^# .*$", out, flags=re.MULTILINE)[1:]
    assert "unknown" not in what
    assert load_config(yaml.safe_load(resolved.partition("Dry run")[0])) == load_config(recipe)
    assert load_config(yaml.safe_load(differing)) == load_config(recipe)
    # Without the corpus, and without the hub, a run would be refused; its size is what the recipe's estimates say.
    lacking = {"clinical_summaries": "nothing matches 'clinical/train.jsonl'",
               "maths_curve": "nothing matches 'math/train.jsonl'",
               "mathinstruct_pythia70m": "'EleutherAI/pythia-70m-deduped' cannot be loaded"}  # fmt: skip
    assert code == (2 if recipe in lacking else 0)
    assert lacking.get(recipe, "") in err
    if recipe == "clinical_summaries":
        assert "examples      1.7k" in out


def test_dry_run_refuses_a_missing_file_when_nothing_estimates_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "quickstart", "corpus.paths=[none.jsonl]", "--dry-run"]) == 2
    assert "nothing matches 'none.jsonl'" in capsys.readouterr().err


def test_a_refused_configuration_ends_with_2_and_starts_nothing(capsys):
    assert main(["run", "quickstart", "proxy.epochs=0"]) == 2
    assert "proxy.epochs" in capsys.readouterr().err


# --- files ----------------------------------------------------------------------------------------------------------


def test_unknown_recipe_names_the_nearest():
    assert "Did you mean 'quickstart'?" in refused("quickstrat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"corpus: [", "not valid YAML"),
        (b"- a\n- b\n", "holds list, not a mapping"),
        (b"", "holds NoneType, not a mapping"),
        (b"name: \xff\xfe\xfa", "not valid YAML"),
        (b"name: a\nseed: 1\nname: b\n", "the key 'name' is given twice"),
        (b"proxy:\n  model: a\n  model: b\n", "the key 'model' is given twice"),
    ],
)
def test_unreadable_files_say_why(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "my.yaml").write_bytes(content)
    assert message in refused(str(tmp_path / "my.yaml"))


def test_a_file_with_bom_and_yaml_anchors_loads(tmp_path: Path):
    text = "base: &b {model: m, epochs: 2}\n"
    (tmp_path / "my.yaml").write_bytes(b"\xef\xbb\xbfcorpus: {paths: [a.jsonl]}\nproxy: {model: m, epochs: 2}\n")
    assert load_config(tmp_path / "my.yaml").proxy.epochs == 2
    (tmp_path / "merge.yaml").write_text(f"corpus: {{paths: [a]}}\nproxy:\n  <<: {{model: m}}\n  epochs: 1\n# {text}")
    assert load_config(str(tmp_path / "merge.yaml")).proxy.model == "m"


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("porxy.model=a", "porxy: unknown key; did you mean 'proxy'?"),
        ("proxy.learning_rat=1", "proxy.learning_rat: unknown key; did you mean 'learning_rate'?"),
        ("clusters.num_cluster=9", "clusters.num_cluster: unknown key; did you mean 'num_clusters'?"),
        ("corpus.quickstart.num_example=9", "corpus.quickstart.num_example: unknown key; did you mean 'num_examples'?"),
        ("proxy.train_tokenizer.vocab=9", "proxy.train_tokenizer.vocab: unknown key; did you mean 'vocab_size'?"),
        ("selection.zzz=9", "selection.zzz: unknown key; valid here: budgets, selectors, stratify, seed"),
    ],
)
def test_unknown_keys_name_the_nearest_valid_one(override, message):
    assert message in refused("quickstart", override)


def test_all_faults_come_in_one_message():
    said = refused("quickstart", "proxy.epochs=0", "clusters.k=3", "seed=-1", "proxy.precision=fp8")
    for where in ("proxy.epochs", "clusters.k", "seed", "proxy.precision"):
        assert f"  - {where}: " in said


def test_missing_sections_are_named_without_the_whole_tree():
    assert "corpus: required but not set" in refused({"proxy": {"model": "m"}})
    assert "some/model" not in refused({"proxy": MINIMAL["proxy"]})


@pytest.mark.parametrize("override", ["proxy.model", "=3", ".=3", "corpus..paths=[a]", "proxy.=3"])
def test_malformed_overrides_are_refused(override):
    assert "not of the form section.field=value" in refused("quickstart", override)


# --- values ---------------------------------------------------------------------------------------------------------


def test_overrides_carry_yaml_values():
    config = load_config(
        "quickstart",
        [
            "selection.budgets=[0.05, 300, 1.0]",
            "target.subsets=[]",
            "proxy.learning_rate=2e-5",
            "proxy.from_config.rms_norm_eps=1e-6",
            "proxy.from_config.rope_scaling={factor: 2E+0}",
            "proxy.from_config.num_hidden_layers=3",
            "corpus.source_column=null",
            "selection.selectors=[s2l,random]",
            "trajectories.include_step_zero=true",
            "corpus.quickstart.num_examples=500",
        ],
    )
    assert config.selection.budgets == [0.05, 300, 1.0]
    assert [type(b) for b in config.selection.budgets] == [float, int, float]
    assert config.proxy.learning_rate == 2e-5
    assert config.corpus.source_column is None
    assert config.trajectories.include_step_zero is True
    assert config.corpus.quickstart is not None
    assert config.corpus.quickstart.num_examples == 500
    inner = config.proxy.from_config
    assert inner is not None
    assert inner["rms_norm_eps"] == 1e-6  # YAML 1.1 would read a text here, and nobody would check it
    assert inner["rope_scaling"] == {"factor": 2.0}
    assert inner["num_hidden_layers"] == 3
    assert inner["model_type"] == "llama"  # the rest of the recipe's mapping stays


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Findings: {findings} Impression:", "Findings: {findings} Impression:"),
        ("{question}", "{question}"),
        ("'{question}'", "{question}"),
        ('"{question}\\n"', "{question}\n"),
        (" {question}", " {question}"),
        ("{a} # not a comment", "{a} # not a comment"),
    ],
)
def test_text_fields_take_the_text_as_it_stands(text, value):
    config = load_config(MINIMAL, [f"corpus.template.prompt={text}", "corpus.template.response={answer}"])
    assert config.corpus.template is not None
    assert config.corpus.template.prompt == value


def test_names_that_look_like_numbers_stay_text():
    config = load_config(MINIMAL, ["name=2024", "proxy.revision=1e10", "proxy.tokenizer=~"])
    assert (config.name, config.proxy.revision, config.proxy.tokenizer) == ("2024", "1e10", None)


def test_the_callers_mapping_is_left_alone():
    tree = copy.deepcopy(SCRATCH)
    load_config(tree, ["proxy.model=x", "corpus.quickstart.num_examples=200"])
    assert tree == SCRATCH


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("selection.budgets=[true]", "boolean"),
        ("selection.budgets=[]", "selection.budgets is empty"),
        ("selection.budgets=[0]", "budget 0 "),
        ("selection.budgets=[-5]", "budget -5 "),
        ("selection.budgets=[1.5]", "budget 1.5 "),
        ("selection.budgets=[.nan]", "selection.budgets.0"),
        ("selection.budgets=[.inf]", "selection.budgets.0"),
        ("selection.selectors=[]", "selection.selectors is empty"),
        ("selection.selectors=[s3l]", "unknown selector 's3l'; known:"),
        ("selection.budgets=0.1", "must be a list, got 0.1; write [0.1]"),
        ("corpus.paths=a.jsonl", "must be a list, got 'a.jsonl'; write [a.jsonl]"),
        ("proxy.learning_rate=.inf", "proxy.learning_rate"),
        ("proxy.epochs=.nan", "proxy.epochs"),
        ("name=..", "name"),
        ("name=a/b", "name"),
        ("corpus.max_quarantined_share=1.1", "corpus.max_quarantined_share"),
    ],
)
def test_wrong_values_are_refused(override, where):
    assert where in refused("quickstart", override)


def test_a_budget_of_1_is_one_example_and_1_0_is_all():
    from s2l_ray.selection.quotas import resolve_budget

    budgets = load_config(MINIMAL, ["selection.budgets=[1, 1.0]"]).selection.budgets
    assert [resolve_budget(b, 1000) for b in budgets] == [1, 1000]


# --- the resolved tree ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_resolved_yaml_reads_back_the_same(recipe, tmp_path):
    overrides = ["selection.budgets=[1, 1.0, 0.5]", "proxy.learning_rate=1e-7", "name=on"]
    config = load_config(recipe, overrides + ["target.subsets=[]"] * (load_config(recipe).target is not None))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert to_yaml(again) == to_yaml(config)
    assert [type(b) for b in again.selection.budgets] == [int, float, float]


def test_nothing_changes_a_configuration_later():
    config = load_config("quickstart")
    with pytest.raises(pydantic.ValidationError):
        config.seed = 3
    with pytest.raises(pydantic.ValidationError):
        config.proxy.epochs = 9
    first = S2LConfig.model_validate(MINIMAL)
    first.selection.budgets.append(7)  # lists are lists; but no other tree shares them
    assert S2LConfig.model_validate(MINIMAL).selection.budgets == [0.11]


def test_every_field_is_documented():
    def undocumented(model: type[pydantic.BaseModel], where: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            options = [o for o in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(o, type)]
            inner = [o for o in options if issubclass(o, pydantic.BaseModel)]
            found += [f for o in inner for f in undocumented(o, f"{where}{name}.")]
            if not inner and not field.description:
                found.append(where + name)
        return found

    assert undocumented(S2LConfig, "") == []


def test_seeds_fall_back_to_the_runs():
    config = load_config(MINIMAL, ["seed=5", "clusters.seed=0"])
    assert [config.seed_of(s) for s in ("proxy", "clusters", "selection")] == [5, 0, 5]


def test_a_file_on_an_object_store_is_read_like_any_other(s3_uri):
    """As the report of a run there says how to repeat it: s2l run s3://…/config.yaml"""
    folder = Storage.open(s3_uri)
    folder.write_bytes("my.yaml", b"corpus: {quickstart: {}}\nproxy: {model: gpt2}\nname: there\n")
    assert load_config(folder.uri_of("my.yaml"), ["seed=3"]).seed == 3
    for name in ("none.yaml", ""):  # nothing, and a folder
        with pytest.raises(ConfigError, match=r"'s3://.*' cannot be read: "):
            load_config(folder.uri_of(name))
    with pytest.raises(UserError, match="nosuch://"):
        load_config("nosuch://bucket/my.yaml")
