"""Where nothing can be written, a dry run is refused like the command itself: with the place, the cause and a cure."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from s2l_ray.cli import main
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl
from tests.support.answering_model import questions
from tests.support.report_runs import MadeRun

Refusing = Callable[[str], tuple[Path, str]]


@pytest.fixture
def refusing(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Refusing]:
    """Makes a run's folder that refuses, and says what its message has to name."""
    ids: list[int] = []

    def make(case: str) -> tuple[Path, str]:
        folder = tmp_path / "run"
        if case in ("read-only", "full"):
            folder = request.getfixturevalue("mount") / "run"
            folder.mkdir()
        if case == "read-only":
            request.getfixturevalue("read_only")(folder.parent)
            return folder, "mounted read-only. Remount it for writing"
        if case == "full":
            with pytest.raises(OSError, match="No space left"):
                (folder.parent / "filling").write_bytes(b"x" * (2 << 20))
            return folder, "no space is left there"
        if case == "no permission":
            if os.geteuid():
                pytest.skip("only root can become somebody else")
            folder.mkdir(mode=0o755)
            for above in folder.parents:
                if above == Path(tempfile.gettempdir()):
                    break
                above.chmod(0o755)  # pytest's own folders are closed to others
            ids.append(os.geteuid())
            os.seteuid(65534)
            return folder / "below/run", "this user (id 65534) may not do that"
        if case == "system":
            return Path("/proc/run"), "the system allows no new file there"
        if case == "link":
            folder.symlink_to(tmp_path / "nowhere")
            return folder, "a link in its path leads nowhere"
        if case == "locks":
            folder.mkdir()
            (folder / "locks").touch()
            return folder, "locks is a file, where a folder should be"
        if case == "log":
            (folder / "metrics.jsonl").mkdir(parents=True)
            return folder, "metrics.jsonl is a folder, where a file should be"
        folder.touch()
        return (folder if case == "file" else folder / "below/run"), f"{folder} is a file, where a folder should be"

    yield make
    for before in ids:
        os.seteuid(before)


CASES = ["file", "parent", "link", "locks", "log", "system", "full", "read-only", "no permission"]


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_is_refused_where_the_run_is(refusing, tmp_path, case, capsys):
    config = tmp_path / "my.yaml"
    config.touch()
    config.chmod(0o666)  # in one of these cases, this process becomes another user
    folder, why = refusing(case)
    with open(config, "w") as file:
        yaml.safe_dump(tiny_run_config(folder), file)
    said = []
    for options in (["--dry-run"], []):
        assert main(["run", str(config), *options]) == 2
        err = capsys.readouterr().err
        assert f"run_dir='{folder}' cannot be written to: " in err
        assert why in err
        assert "choose another run_dir" in err
        said.append(err.partition("run_dir=")[2])
    assert said[0] == said[1]
    assert not [path for path in tmp_path.rglob(".tmp-*")]


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize("case", ["parent", "read-only"])
def test_a_sweep_is_refused_too(refusing, tmp_path, case, dry, capsys):
    folder, why = refusing(case)
    tree = tiny_run_config(folder, heldout__share=0.1)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(tree | {"target": dict(tree["proxy"])}))
    assert main(["sweep", str(tmp_path / "my.yaml"), *["--dry-run"] * dry]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "gradients", "select", "finetune"])
def test_commands_on_a_run_that_cannot_be_written(command, read_only, answering_model, tmp_path, capsys):
    run = MadeRun(tmp_path / "run", num_examples=150, num_clusters=2, targets=(), heldout={}).make()
    rows = [{"question": text["question"], "answer": text["answer"]} for text in questions(4)]
    write_jsonl(tmp_path / "data/gsm8k.jsonl", rows)
    asked = ["--model", str(answering_model), "--tasks", "gsm8k", f"evaluation.data.folder={tmp_path / 'data'}"]
    options = {"evaluate": asked, "gradients": [], "select": ["--budget", "0.3"], "finetune": ["--full"]}[command]
    if command == "finetune":
        options = [*options, f"target.model={answering_model}"]
    read_only(run)
    for dry in (["--dry-run"], []) if command in ("evaluate", "gradients") else ([],):
        assert main([command, str(run), *options, *dry]) == 2
        err = capsys.readouterr().err
        assert f"the run {run} cannot be written to: the file system is mounted read-only. Remount it" in err
        assert "copy the run to a folder that you can write to" in err
    assert main(["inspect", str(run)]) == 0


@pytest.mark.parametrize("option", ["report", "push", "export"])
def test_places_for_output_that_cannot_be_written(option, read_only, answering_model, tmp_path, capsys):
    run = MadeRun(tmp_path / "run", num_examples=150, num_clusters=2, targets=(), heldout={}).make()
    rows = [{"question": text["question"], "answer": text["answer"]} for text in questions(4)]
    write_jsonl(tmp_path / "data/gsm8k.jsonl", rows)
    closed = tmp_path / "closed"
    closed.mkdir()
    read_only(closed)
    command = {
        "report": ["report", str(run), "--out", f"{closed}/below/page.html"],
        "push": ["push", str(run), "--subset", "s2l-0.2", "me/name", "--dry-run", "--out", f"{closed}/below"],
        "export": ["evaluate", str(run), "--model", str(answering_model), "--tasks", "gsm8k",
                   f"evaluation.data.folder={tmp_path / 'data'}", "--export-lm-eval", f"{closed}/below"],
    }[option]  # fmt: skip
    assert main(command) == 2
    err = capsys.readouterr().err
    assert f"'{closed}/below' cannot be written to: the file system is mounted read-only." in err
    assert "choose another place with --" in err


def test_a_dry_run_leaves_nothing_behind(tmp_path):
    config = tmp_path / "my.yaml"
    config.write_text(yaml.safe_dump(tiny_run_config(tmp_path / "a/b/run")))
    assert main(["run", str(config), "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == [config]


def test_a_bucket_that_does_not_exist(s3_uri, tmp_path, capsys):
    config = tmp_path / "my.yaml"
    for uri, code in ((s3_uri.replace("s3://s2l-test/", "s3://no-such-bucket/"), 2), (s3_uri, 0)):
        config.write_text(yaml.safe_dump(tiny_run_config(Path()) | {"run_dir": uri}))
        assert main(["run", str(config), "--dry-run"]) == code
        err = capsys.readouterr().err
        assert ("cannot be written to" in err and "The bucket does not exist" in err) is (code == 2)
