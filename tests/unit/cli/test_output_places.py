"""What a command writes where the user says never replaces anything but what it wrote there itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from s2l_ray.cli import main
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl
from tests.support.answering_model import questions
from tests.support.report_runs import MadeRun


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    return MadeRun(folder, num_examples=150, num_clusters=2, targets=(), heldout={}).make()


def test_a_page_replaces_only_pages(made, tmp_path, capsys):
    page = tmp_path / "page.html"
    page.touch()  # as mktemp does
    for _ in range(2):
        assert main(["report", str(made), "--out", str(page)]) == 0
    assert json.loads((tmp_path / "page.facts.json").read_text())["name"] == "made"
    assert main(["report", str(made), "--out", str(made / "report/index.html")]) == 0
    capsys.readouterr()
    for name in ("mine.html", "other.facts.json"):
        (tmp_path / name).write_text("<!doctype html>\n<p>mine")
        out = tmp_path / name.replace("facts.json", "html")
        assert main(["report", str(made), "--out", str(out)]) == 2
        told = capsys.readouterr().err
        assert f"{tmp_path / name} exists and is not " in told
        assert "its content would be lost; choose another name with --out, or move that file away" in told
        assert (tmp_path / name).read_text() == "<!doctype html>\n<p>mine"
    assert not (tmp_path / "other.html").exists()
    before = (made / "config.yaml").read_bytes()
    assert main(["report", str(made), "--out", str(made / "config.yaml")]) == 2
    assert (made / "config.yaml").read_bytes() == before


def test_pages_of_earlier_versions_are_pages(made, tmp_path, capsys):
    """They did not name their generator."""
    page = tmp_path / "page.html"
    assert main(["report", str(made), "--out", str(page)]) == 0
    lines = page.read_bytes().splitlines(keepends=True)
    earlier = [line for line in lines if b"generator" not in line]
    assert len(earlier) == len(lines) - 1
    page.write_bytes(b"".join(earlier))
    assert main(["report", str(made), "--out", str(page)]) == 0
    assert b"generator" in page.read_bytes()
    for number in range(8):  # without any of the lines by which it is known, it may be anything
        page.write_bytes(b"".join(earlier[:number] + earlier[number + 1 :]))
        assert main(["report", str(made), "--out", str(page)]) == 2
        assert "is not a page of s2l report" in capsys.readouterr().err


@pytest.mark.parametrize("uri", ["s3://bucket/there", "gs://bucket/there", "memory://there"])
def test_what_is_not_on_this_machine_is_no_path(made, answering_model, tmp_path, monkeypatch, capsys, uri):
    """As a path, it would be a folder called `s3:`."""
    monkeypatch.chdir(tmp_path)
    data = write_jsonl(tmp_path / "data/gsm8k.jsonl", [{"question": "1?", "answer": "1"}])
    corpus = write_jsonl(tmp_path / "data/rows.jsonl", [{"instruction": f"{i}", "output": f"{i}"} for i in range(50)])
    evaluate = ["evaluate", str(made), "--model", str(answering_model), "--tasks", "gsm8k",
                f"evaluation.data.folder={data.parent}"]  # fmt: skip
    for command, option in (
        (["report", str(made)], "--out"), (["push", str(made), "--subset", "s2l-0.2", "me/x", "--dry-run"], "--out"),
        (["init", str(corpus)], "--out"), (evaluate, "--export-lm-eval"),
    ):  # fmt: skip
        assert main([*command, option, uri]) == 2, command
        assert f"{option} '{uri}' is not on this machine, where this command writes" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert main(["init", str(corpus), "--out", f"file://{tmp_path}/my%20own.yaml"]) == 0
    assert (tmp_path / "my own.yaml").exists()


def test_a_configuration_that_cannot_be_written_whole_leaves_nothing(mount, tmp_path, capsys):
    corpus = write_jsonl(tmp_path / "rows.jsonl", [{"instruction": f"{i}", "output": f"{i}"} for i in range(50)])
    with pytest.raises(OSError, match="No space left"):
        (mount / "filling").write_bytes(b"x" * (2 << 20))
    for _ in range(2):
        assert main(["init", str(corpus), "--out", str(mount / "my.yaml")]) == 2
        assert "cannot be written (No space left on device)" in capsys.readouterr().err
        assert [path.name for path in mount.iterdir()] == ["filling"]


def test_a_page_is_no_folder_and_no_device(made, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    for name, told in (("", "is a folder, so a page of s2l report cannot be written"), ("pipe", "device or a pipe")):
        assert main(["report", str(made), "--out", str(tmp_path / name)]) == 2
        assert told in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_a_run_that_cannot_take_its_page_says_that_it_may_be_elsewhere(tmp_path, capsys):
    run = MadeRun(tmp_path / "run", num_examples=150, num_clusters=2, targets=(), heldout={}).make()
    (run / "report").touch()
    assert main(["report", str(run)]) == 2
    told = capsys.readouterr().err
    assert "/report' cannot be written to: " in told
    assert "report is a file, where a folder should be. " in told
    assert "or choose another place with --out" in told
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0


def test_exported_tasks_do_not_replace_the_questions_they_are_made_from(made, answering_model, tmp_path, capsys):
    rows = [{"question": text["question"], "answer": text["answer"]} for text in questions(4)]
    mine = write_jsonl(tmp_path / "data/gsm8k.jsonl", rows)
    command = ["evaluate", str(made), "--model", str(answering_model), "--tasks", "gsm8k",
               f"evaluation.data.folder={mine.parent}", "--export-lm-eval"]  # fmt: skip
    before = mine.read_bytes()
    assert main([*command, str(mine.parent)]) == 2
    told = capsys.readouterr().err
    assert f"{mine} exists and is not an exported task" in told
    assert "choose another name with --export-lm-eval" in told
    assert {path: path.read_bytes() for path in mine.parent.iterdir()} == {mine: before}
    for _ in range(2):
        assert main([*command, str(tmp_path / "out")]) == 0


def test_a_run_replaces_no_config_that_is_not_its_own(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mine = Path("config.yaml")
    for tree in ({"database": "mine"}, tiny_run_config(Path())):
        mine.write_text(f"# my own\n{yaml.safe_dump(tree)}")
        assert main(["run", "quickstart", "run_dir=.", "--dry-run"]) == 2
        assert (
            "run_dir=. has a config.yaml that no run has written, and a run would overwrite it"
            in capsys.readouterr().err
        )
    assert main(["run", "quickstart", f"run_dir={made}", "--dry-run"]) == 0
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/config.yaml").write_bytes((made / "config.yaml").read_bytes())  # without its log and locks
    assert main(["run", "quickstart", "run_dir=copy", "--dry-run"]) == 0
