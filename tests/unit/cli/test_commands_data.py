"""Everyday commands that look at data, runs and machines: inspect, verify, env, dry runs, init."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import s2l_ray
from s2l_ray.cli import main
from s2l_ray.config import load_config
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl
from tests.support.report_runs import MadeRun


def said(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert main(list(command)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with subsets, targets and quarantined rows."""
    return MadeRun(
        tmp_path_factory.mktemp("made") / "run", quarantined=(("a.jsonl", "bad JSON"), ("b.jsonl", "bad JSON"))
    ).make()


# --- reading a run ----------------------------------------------------------------------------------------------------


def test_inspect_gives_its_figures_as_json(made, capsys):
    facts = json.loads(said(capsys, "inspect", str(made), "--json", "--by", "topic", "--clusters", "0"))
    assert facts["run"] == str(made)
    assert sum(cluster["size"] for cluster in facts["clusters"]) == 900
    assert facts["clusters"][0]["losses"][0] > facts["clusters"][0]["losses"][-1]
    assert [(q["reason"], q["rows"], q["origin"]) for q in facts["quarantine"]] == [("bad JSON", 2, "a.jsonl")]
    assert sum(value["size"] for value in facts["by"]) == 900
    assert set(facts["by"][0]["chosen"]) >= {"s2l-0.2", "random-0.2"}
    assert set(facts["targets"]) == {"full", "s2l-0.2", "random-0.2"}
    assert {"corpus", "tokens", "proxy", "trajectories", "clusters"} <= {stage["name"] for stage in facts["stages"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clusters", "-1"], "--clusters: '-1' is not a count; give a whole number, 0 or more"),
        (["--clusters", "half"], "--clusters: 'half' is not a count; give a whole number, 0 or more"),
        (["--examples", "-1"], "--examples: '-1' is not a count; give a whole number, 0 or more"),
        (["--cluster", "-1"], "--cluster: '-1' is not a count; give a whole number, 0 or more"),
        (["--cluster", "1", "--clusters", "3"], "--clusters: not allowed with argument --cluster"),
        (["--examples", "1", "--examples", "3"], "--examples: given twice"),
    ],
)
def test_counts_of_inspect_that_mean_nothing_are_refused(options, message, made, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(made), *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--by", "nope"], ["--source", "nope"], ["--cluster", "77"]])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_inspect_refuses_unknown_names_before_it_shows_anything(made, capsys, options, form):
    assert main(["inspect", str(made), *options, *form]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert options[1] in err


@pytest.mark.parametrize("options", [["--source", "books"], ["--cluster", "1"]])
def test_inspect_of_a_run_without_clusters_does_not_drop_what_is_asked(tmp_path, capsys, options):
    run = MadeRun(tmp_path / "run", with_clusters=False).make()
    assert main(["inspect", str(run)]) == 0
    capsys.readouterr()
    assert main(["inspect", str(run), *options]) == 2
    assert "has no clusters yet, so --" in capsys.readouterr().err


def test_inspect_names_the_subset_that_its_figures_are_of(made, capsys):
    facts = json.loads(said(capsys, "inspect", str(made), "--json", "--clusters", "2", "--examples", "0"))
    assert facts["clustering"] == {"subset": "s2l-0.2", "num_clusters": 6, "num_snapshots": 5}
    assert [len(cluster["examples"]) for cluster in facts["clusters"]] == [0, 0]


def test_verify_gives_what_it_found_as_json(made, capsys):
    found = json.loads(said(capsys, "verify", str(made), "--json"))
    assert (found["problems"], found["num_files"] > 20) == ([], True)


def test_env_names_versions_and_hardware_and_no_secret(capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://someone:verysecret@head:10001")
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    facts = json.loads(said(capsys, "env", "--json"))
    assert facts["s2l_ray"]["version"] == s2l_ray.__version__
    assert facts["packages"]["ray"].startswith("2.")
    assert facts["machine"]["CPU cores"] >= 1
    assert "verysecret" not in json.dumps(facts)
    told = said(capsys, "env")
    assert "torch's build" in told
    assert "verysecret" not in told


# --- dry runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection__budgets": [700]}, "requests 700 examples, but there are only 600"),
        ({"run_dir": " "}, "is not a valid folder name"),
        ({"resources__proxy": {"workers": 500, "cpus_per_worker": 1}}, "would wait indefinitely"),
        ({"heldout": {"files": {"mine": ["none.jsonl"]}}, "target": {}}, "heldout.files.mine: nothing matches"),
        ({"target": {"max_length": 9000, "tokens_per_microbatch": 9000}}, "max_length=9000"),
    ],
)
def test_a_dry_run_of_what_would_be_refused_ends_with_2(workplace, capsys, changes, message):
    tree: dict[str, Any] = tiny_run_config(workplace / "run")
    model = {name: tree["proxy"][name] for name in ("from_config", "train_tokenizer", "render", "max_length")}
    for dotted, value in changes.items():
        path = dotted.split("__")
        node = tree
        for name in path[:-1]:
            node = node[name]
        node[path[-1]] = {**model, **value} if dotted == "target" else value
    Path("my.yaml").write_text(yaml.safe_dump(tree))
    assert main(["run", "my.yaml", "--dry-run"]) == 2
    assert message in capsys.readouterr().err
    assert not (workplace / "run").exists()


def test_a_dry_run_says_once_which_files_are_not_read(workplace, capsys, caplog):
    write_jsonl(Path("shards/a.jsonl"), [{"prompt": "p", "completion": "c"}] * 40)
    Path("shards/notes.md").write_text("notes")
    tree = tiny_run_config(workplace / "run") | {"corpus": {"paths": ["shards"]}}
    Path("my.yaml").write_text(yaml.safe_dump(tree))
    told = said(capsys, "run", "my.yaml", "--dry-run") + caplog.text
    assert told.count("files that are not read: notes.md") == 1


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([], "one per GPU, or one on CPUs, for the proxy"),
        (["resources.device=cpu"], "one for the proxy"),
        (["resources.proxy.workers=4", "resources.device=cpu"], "4 on CPUs for the proxy"),
    ],
)
def test_a_dry_run_says_how_many_workers(workplace, capsys, asked, told):
    Path("my.yaml").write_text(yaml.safe_dump(tiny_run_config(workplace / "run")))
    main(["run", "my.yaml", "--dry-run", *asked])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("workers ")]
    assert line.removeprefix("workers").strip() == f"{told}, one process for k-means, CPU tasks for the rest"


def test_a_dry_run_says_first_what_matters_and_then_what_differs(workplace, capsys):
    lines = said(capsys, "run", "quickstart", "proxy.epochs=1", "--dry-run").splitlines()
    assert lines[1].startswith("quickstart: 20k examples; selects s2l_robust-0.2, random-0.2; fine-tunes on full,")
    assert lines[2].startswith("total         about ")
    assert [line.split()[0] for line in lines[3:10]] == [
        "examples",
        "tokens",
        "proxy",
        "FLOPs",
        "time",
        "disk",
        "workers",
    ]
    at = lines.index("# what differs from the defaults")
    assert "  epochs: 1.0" in lines[at:]
    assert "# resolved configuration" not in lines
    assert main(["run", "quickstart", "--resolved"]) == 2
    assert "add --dry-run" in capsys.readouterr().err


def test_a_dry_run_is_calibrated(workplace, capsys):
    """The quickstart takes 3 to 5 minutes, alone on two cores (getting-started.md), and less on newer processors."""
    plain = json.loads(said(capsys, "run", "quickstart", "--dry-run", "--json"))
    assert 90 < plain["seconds"] < 400
    assert plain["refused"] == []
    assert [cost["name"] for cost in plain["targets"]] == ["full", "s2l_robust-0.2", "random-0.2"]
    assert load_config(plain["differences"]) == load_config(plain["configuration"]) == load_config("quickstart")


# --- init -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"instruction": "Add.", "input": "1 and {n}", "output": "{n}"}, {}),
        ({"question": "1 and {n}?", "answer": "{n}"}, {"template": {"prompt": "{question}", "response": "{answer}"}}),
        ({"messages": [{"role": "user", "content": "{n}"}, {"role": "assistant", "content": "{n}"}]}, {}),
        ({"prompt": "{n}", "completion": "{n}", "dataset": "a"}, {}),
    ],
)
def test_init_writes_what_a_run_accepts(workplace, capsys, row, wanted):
    def filled(value: Any, n: int) -> Any:
        if isinstance(value, dict):
            return {key: filled(inner, n) for key, inner in value.items()}
        if isinstance(value, list):
            return [filled(inner, n) for inner in value]
        return value.replace("{n}", str(n))

    rows = [filled(row, n) for n in range(60)]
    if "dataset" in row:
        rows = [one | {"dataset": "ab"[n % 2]} for n, one in enumerate(rows)]
        wanted = {"source_column": "dataset"}
    write_jsonl(Path("mine.jsonl"), rows)
    told = said(capsys, "init", "mine.jsonl")
    assert "Wrote mine.yaml. Next:\n  s2l run mine.yaml --dry-run" in told
    corpus = yaml.safe_load(Path("mine.yaml").read_text())["corpus"]
    assert corpus == {"paths": ["mine.jsonl"], **wanted}
    small = ["proxy.from_config={model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}",
             "proxy.train_tokenizer.vocab_size=300"]  # fmt: skip
    assert "examples      60" in said(capsys, "run", "mine.yaml", *small, "--dry-run")
    assert main(["init", "mine.jsonl"]) == 2
    assert "mine.yaml already exists and would be overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": "x", "b": "y"}] * 3, "fit no known format"),
        ([{"instruction": "a", "output": ""}] * 3, "none of the first 3 rows"),
        ([{"prompt": "p", "chosen": "a", "rejected": "b"}] * 3, "preference data"),
    ],
)
def test_init_refuses_as_a_run_would(workplace, capsys, rows, message):
    write_jsonl(Path("mine.jsonl"), rows)
    assert main(["init", "mine.jsonl"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("mine.yaml").exists()


def test_init_says_which_rows_cannot_be_used(workplace, capsys):
    write_jsonl(Path("mine.jsonl"), [{"prompt": "p", "completion": "c" * (n % 4)} for n in range(40)])
    assert "10 of these rows cannot be used: empty response" in said(capsys, "init", "mine.jsonl", "--out", "-")
