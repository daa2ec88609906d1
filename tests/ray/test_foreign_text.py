"""Text of the corpus is text: whatever it holds, people see what stands there and nothing happens."""

from __future__ import annotations

import csv
import io
import re
import types
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import yaml
from rich.console import Console

import s2l_ray
from s2l_ray.artifacts.manifest import HERE, SUMMARY, StageManifest
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.cli import main
from s2l_ray.config import load_config
from s2l_ray.config.target import TargetConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_ids
from s2l_ray.errors import UserError
from s2l_ray.observability.progress import Progress
from s2l_ray.reporting.inspect import inspect_run
from s2l_ray.stages.target.card import model_card
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config
from s2l_ray.text.display import printable, shorten
from tests.support.foreign import ATTACKS, UNSEEN
from tests.support.paths import SHARED

_ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
def hostile(tmp_path: Path) -> Run:
    """As much of a run as `inspect` reads; its rows, sources and folder are attacks."""
    storage = Storage.open(tmp_path / "[bold]run :smile: \x1b[31m")
    num = len(ATTACKS)
    ids = np.arange(2 * num, dtype=np.uint64).reshape(num, 2)
    losses = np.linspace(0, 3, num * 4, dtype=np.float32).reshape(num, 4)
    messages = [[{"role": "user", "content": a}, {"role": "assistant", "content": a}] for a in ATTACKS]
    examples = pa.table({"example_id": array_to_ids(ids), "messages": messages})
    storage.write_table(f"corpus/examples/{part_name(0)}", examples)
    bad = [{"origin": a, "index": i, "reason": f"unusable: {a}", "text": a} for i, a in enumerate(ATTACKS[:20])]
    storage.write_table("corpus/quarantine/part-0.parquet", pa.Table.from_pylist(bad))
    centroids = pa.FixedSizeListArray.from_arrays(pa.array(losses.ravel()), 4)
    storage.write_table("clusters/centroids.parquet", pa.table({"centroid_loss_nats": centroids}))
    storage.write_table("clusters/assignment.parquet", pa.table({"cluster": list(range(num))}))
    settings = {"num_snapshots": None, "snapshots": "even"}
    extra = {"said": ATTACKS[7], SUMMARY: f"{ATTACKS[7]} {HERE}"}
    manifest = StageManifest(stage="any", key="k", extra=extra, settings=settings, wall_seconds=1.0)
    stages = {n: Stage(n, n, storage.sub(n), manifest) for n in ("corpus", "clusters")}
    matrix = types.SimpleNamespace(losses=losses, sources=np.arange(num), source_names=list(ATTACKS), ids=ids,
                                   part_rows=[(0, num)])  # fmt: skip
    run = types.SimpleNamespace(uri=storage.uri, config=types.SimpleNamespace(seed=0), stages=stages, subsets={},
                                targets={}, others=[], stage=stages.__getitem__,
                                trajectories=lambda: matrix)  # fmt: skip
    return cast(Run, run)


def _inspected(run: Run, **options: Any) -> str:
    out = io.StringIO()
    inspect_run(run, Console(file=out, force_terminal=True, width=230, color_system="truecolor"), **options)
    return out.getvalue()


def test_inspect_shows_every_source_and_text_as_it_stands(hostile: Run):
    shown = _ANSI.sub("", _inspected(hostile, examples=1))
    assert not set(shown) & set(UNSEEN)
    flat = re.sub(r"[\s│┃]+", "", shown)
    for attack in ATTACKS:
        assert re.sub(r"\s+", "", printable(attack))[:40] in flat, attack


def test_a_sources_name_stays_in_its_line(hostile: Run):
    lines = [re.sub(r"\s+", "", line) for line in _ANSI.sub("", _inspected(hostile, examples=0)).splitlines()]
    for attack in ATTACKS:
        shown = re.sub(r"\s+", "", printable(attack)) + "100%"
        if len(shown) < 30:  # longer ones are folded
            assert any(shown in line for line in lines), attack


def test_inspect_of_one_source_and_of_none(hostile: Run):
    assert "[/INST] ok" in _inspected(hostile, source="[/INST] ok")
    with pytest.raises(UserError, match=r"no source '\\x1b\[31m'") as caught:
        _inspected(hostile, source="\x1b[31m")
    assert not set(str(caught.value)) & set(UNSEEN)


@pytest.mark.parametrize("interactive", [False, True])
def test_progress_shows_lines_and_names_as_they_stand(interactive: bool):
    out = io.StringIO()
    progress = Progress(out, interactive=interactive)
    with progress.stage("[red]" + ATTACKS[8], 3, "rows") as bar:
        bar.update(1, set="[/INST] :smile: \u202e")
        for attack in ATTACKS:
            progress.say(attack)
    text = out.getvalue()
    assert "[/INST] ok" in text
    assert "[red]alarm[/red]" in text
    assert "a :smile: b :bomb:" in text
    raw = set(UNSEEN) - ({"\x1b", "\r"} if interactive else set())
    assert not set(text) & raw
    assert "]8;;http" not in text.replace(r"\x1b]8;;http", "")


def _card(name: str, **fields: Any) -> str:
    manifest = StageManifest(
        stage="subset/s2l-0.1", key="k", row_counts={"examples": 10}, content_fingerprint="f",
        extra={"selector": "s2l", "budget": 0.1, "files": [], "per_source": {}}, seeds={"selection": 0},
    )  # fmt: skip
    stage = types.SimpleNamespace(manifest=manifest)
    config = load_config("quickstart", [])
    corpus = config.corpus.model_copy(update={"quickstart": None, "paths": [name]})
    run = types.SimpleNamespace(stage=lambda _: stage, config=config.model_copy(update={"corpus": corpus}))
    return model_card(cast(Run, run), name, TargetConfig(**fields), cast(Any, stage), {"key | `x`": name})


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_card_is_one_table_with_a_head_of_its_own(attack: str):
    for model in ("org/model", attack if attack.strip() else "x", "evil/x\nlicense: mit", "a/b: [c"):
        text = _card(attack, model=model)
        _, head, body = text.split("---\n", 2)
        loaded = yaml.safe_load(head)
        assert set(loaded) <= {"library_name", "tags", "base_model"}
        assert loaded.get("base_model", "org/model") == "org/model"
        assert not set(body) & set(UNSEEN)
        plain = _card("plain", model="org/model")
        assert body.count("\n") == plain.split("---\n", 2)[2].count("\n")
        for line in body.splitlines():
            if line.startswith("|") and not line.startswith("|-"):
                assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3, line
        assert not re.search(r"(?<!\\)<", body)


def test_a_spreadsheet_takes_no_text_for_a_formula():
    from s2l_ray.sweeps.results import for_spreadsheets

    table = pa.table({"source": [*ATTACKS, None, "plain"], "loss": [-1.5] * (len(ATTACKS) + 2)})
    out = io.BytesIO()
    pa.csv.write_csv(for_spreadsheets(table), out)
    rows = list(csv.DictReader(io.StringIO(out.getvalue().decode())))
    assert all(row["loss"] == "-1.5" for row in rows)
    for row, source in zip(rows, table["source"].to_pylist(), strict=True):
        assert not row["source"].startswith(("=", "+", "-", "@", "\t", "\r"))
        assert row["source"].removeprefix("'") == (source or "")


def test_a_picture_shows_labels_as_they_stand():
    import xml.etree.ElementTree as ElementTree

    from s2l_ray.reporting.charts.contents import fates
    from s2l_ray.reporting.facts import SetAside
    from s2l_ray.reporting.frame import framed
    from s2l_ray.reporting.svg import to_files

    charts = [fates(SetAside([(printable(a)[:30], 1)], [], [])) for a in ATTACKS]
    svg = ElementTree.fromstring(to_files(framed(charts, ATTACKS[0], ["s2l"], ATTACKS))["svg"])
    shown = {"".join(element.itertext()) for element in svg.iter() if element.tag.endswith("}text")}
    for attack in ATTACKS:
        assert shorten(printable(attack), 40) in shown, attack


def test_the_case_from_the_workshop(tmp_path: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]):
    case = SHARED / "data/cases/inspect_markup/a.jsonl"
    if not case.exists():
        pytest.skip(f"{case} is not here (it is not part of the project)")
    tree = tiny_run_config(tmp_path / "run")
    tree["corpus"] = {"paths": [str(case)]}
    run = s2l_ray.run(tree, progress=Quiet())
    assert main(["inspect", run.uri]) == 0
    assert "[bold]Add[/bold]" in capsys.readouterr().out
