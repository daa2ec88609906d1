"""`s2l push`: cards, folders, uploads through huggingface_hub to a server of the test's own; no network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard, ModelCard, constants

from s2l_ray.artifacts.manifest import write_manifest
from s2l_ray.artifacts.outputs import list_outputs
from s2l_ray.artifacts.run import load_run
from s2l_ray.cli import main
from s2l_ray.storage.folder import Storage
from tests.support.hub_server import TOKEN, Hub, serve
from tests.support.report_runs import MadeRun


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose subset has rows and whose target has a model's folder."""
    folder = MadeRun(tmp_path_factory.mktemp("made") / "run").make()
    assert main(["select", str(folder), "--subset", "s2l-0.1"]) == 0
    stage = load_run(str(folder)).target("full")
    out = Storage.open(stage.storage.local_path()).recording()
    model = out.sub("model")
    model.write_bytes("config.json", b"{}")
    model.write_bytes("README.md", b"---\nlibrary_name: transformers\nbase_model: a/b\n---\n\n# Target\n\nAbout it.\n")
    outputs = [*stage.manifest.outputs, *list_outputs(out)]
    write_manifest(out, stage.manifest.model_copy(update={"outputs": outputs}))
    return folder


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    server = serve(hub)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def push(made, monkeypatch, capsys, tmp_path):
    """Push with this hub, token and setting, in this process; → (exit code, output, errors)."""

    def call(hub: Hub | None, *arguments: str, token: str = TOKEN, offline: bool = False) -> tuple[int, str, str]:
        # What huggingface_hub takes from the environment when it is imported.
        monkeypatch.setattr(constants, "ENDPOINT", hub.address if hub else "http://127.0.0.1:9")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", token)
        code = main(["push", str(made), *arguments])
        return code, *capsys.readouterr()

    return call


@pytest.mark.thorough
def test_a_dry_run_writes_the_folder_that_would_be_pushed(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["push", str(made), "--subset", "s2l-0.1", "me/maths", "--dry-run"]) == 0
    assert "Dry run: nothing was pushed." in capsys.readouterr().out
    rows = pq.read_table(tmp_path / "maths/data/train-00000-of-00001.parquet")
    assert rows.num_rows == 90
    assert {"instruction", "s2l_id", "s2l_cluster"} <= set(rows.column_names)
    card = DatasetCard.load(tmp_path / "maths/README.md")
    assert card.data.size_categories == "n<1K"
    assert card.data.configs == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
    ]
    for piece in ("90 of 900 fine-tuning examples (10.0%)", "| selector | s2l, seed 0 |", "5 snapshots, 6 clusters",
                  "built-in corpus", "2403.07384"):  # fmt: skip
        assert piece in card.text.replace("\\", ""), piece
    assert main(["push", str(made), "--subset", "s2l-0.1", "me/maths", "--dry-run"]) == 2
    assert "is not empty, and its files would be pushed too" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["taken", "taken/x"])
def test_a_folder_that_cannot_be_written_is_refused_with_its_option(made, tmp_path, capsys, out):
    (tmp_path / "taken").touch()
    assert main(["push", str(made), "--subset", "s2l-0.1", "me/x", "--dry-run", "--out", str(tmp_path / out)]) == 2
    told = capsys.readouterr().err
    assert f"{out}' cannot be written to: {tmp_path}/taken is a file, where a folder should be." in told
    assert "or choose another place with --out" in told


@pytest.mark.parametrize("name", ["s2l-10%", "s2l-0.10"])
def test_a_subset_may_be_named_as_people_write_its_budget(made, tmp_path, capsys, name):
    """As in `s2l select`; the card has the one name."""
    assert main(["push", str(made), "--subset", name, "me/x", "--dry-run", "--out", str(tmp_path / "x")]) == 0
    assert "90 of 900" in (tmp_path / "x/README.md").read_text()
    assert load_run(str(made)).has_subset(name)
    assert "target/random-0.2-" in load_run(str(made)).target("random-20%").storage.uri


@pytest.mark.parametrize(("kind", "command"), [("subset", "select"), ("target", "finetune")])
def test_what_is_incomplete_is_not_pushed(made, tmp_path, capsys, kind, command):
    """The subset and the target of this made run lack files that real ones have."""
    assert main(["push", str(made), f"--{kind}", "s2l-0.2", "me/x", "--dry-run", "--out", str(tmp_path / "x")]) == 2
    told = capsys.readouterr().err
    assert f"a file of {made}/{kind}/s2l-0.2-" in told
    assert f"delete that folder and make it again with `s2l {command}`" in told


@pytest.mark.parametrize(
    ("kind", "name", "file"),
    [("subset", "s2l-0.1", "*.parquet"), ("subset", "s2l-0.1", "groups.json"), ("target", "full", "model/config.json")],
)
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_what_is_damaged_is_not_pushed(made, tmp_path, capsys, kind, name, file, damage):
    run = tmp_path / "run"
    shutil.copytree(made, run)
    for path in run.glob(f"{kind}/{name}-*/{file}"):
        content = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(content[:-1] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
    assert main(["push", str(run), f"--{kind}", name, "me/x", "--dry-run", "--out", str(tmp_path / "x")]) == 2
    told = capsys.readouterr().err
    assert ("is missing" if damage == "gone" else "is damaged: it") in told
    assert f"{run}/{kind}/{name}-" in told
    assert list((tmp_path / "x").iterdir()) == []  # nothing is in the way of the next attempt


def test_data_files_of_the_card_are_what_datasets_loads(made, tmp_path):
    import datasets

    assert main(["push", str(made), "--subset", "s2l-0.1", "me/x", "--dry-run", "--out", str(tmp_path / "x")]) == 0
    loaded = datasets.load_dataset(str(tmp_path / "x"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 90


@pytest.mark.thorough
def test_a_subset_is_pushed_with_its_card_privately(push, hub):
    code, out, err = push(hub, "--subset", "s2l-0.1", "me/maths")
    assert code == 0, err
    assert out.strip() == f"{hub.address}/datasets/me/maths"
    assert hub.repositories["me/maths"]["visibility"] == "private"
    assert set(hub.files) == {"README.md", "data/train-00000-of-00001.parquet", "groups.json"}
    assert b"90 of 900" in hub.files["README.md"]


@pytest.mark.thorough
def test_a_target_is_pushed_with_its_losses_publicly_if_asked(push, hub):
    code, _, err = push(hub, "--target", "full", "me/model", "--public")
    assert code == 0, err
    assert hub.repositories["me/model"]["visibility"] == "public"
    assert {"README.md", "config.json"} <= set(hub.files)
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.to_dict()["base_model"] == "a/b"
    assert "| balanced |" in card.text
    assert "About it." in card.text


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("token", "refuse", "message"),
    [
        ("", None, "has no token"), ("hf_" + "x" * 34, None, "refuses to let this token write"),
        (TOKEN, 403, "refuses to let this token write"),
        (TOKEN, 400, "does not accept me/maths as it is (400"),
        (TOKEN, 404, "knows no me/maths that this token may see (404"),
        (TOKEN, 413, "is more than the hub stores there (413"),
        (TOKEN, 412, "is being changed by someone else, or the hub was busy (412"),
        (TOKEN, 429, "Try again in 7 seconds"),
        (TOKEN, 418, "and will not later; correct what it names"),
        (TOKEN, 503, "has a fault of its own (503"),
    ],
)  # fmt: skip
def test_what_the_hub_refuses_says_why(push, hub, token, refuse, message):
    hub.refuse = refuse
    code, _, err = push(hub, "--subset", "s2l-0.1", "me/maths", token=token)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1, err
    assert hub.files == {}
    assert token == "" or token not in err
    passes = refuse in (412, 429, 503)
    assert ("again" in err) == passes, "try again only where that helps"


@pytest.mark.parametrize(
    ("offline", "message"), [(False, "the hub cannot be reached"), (True, "HF_HUB_OFFLINE is set")]
)
def test_without_a_network_it_says_so(push, offline, message):
    code, _, err = push(None, "--subset", "s2l-0.1", "me/maths", offline=offline)
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--subset", "s2l-0.9", "me/x"], "has no subset 's2l-0.9' (available: "),
        (["--target", "s2l-0.9", "me/x"], "has no target 's2l-0.9' (available: "),
        (["--subset", "s2l-0.1", "nobody"], "does not say whose repository it is; write user/nobody"),
        (["--subset", "s2l-0.1", "a/b/c"], "is not a valid name for a repository on the hub"),
        (["--subset", "s2l-0.1", "me/x", "--out", "y"], "add --dry-run"),
    ],
)
def test_what_cannot_be_pushed_is_refused(made, capsys, arguments, message):
    assert main(["push", str(made), *arguments]) == 2
    assert message in capsys.readouterr().err
