"""Which artifacts belong to a run: found by manifests alone, whatever `run.json` says and whoever wrote it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.chain import NOTE, READS
from s2l_ray.artifacts.run import CONFIG, STAGES, RunError, load_run
from s2l_ray.config import to_yaml
from s2l_ray.storage.folder import Storage
from tests.support.run_maker import WHOLE, Maker, whole
from tests.support.tiers import rest_thorough


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "run")


def damage(folder: Path, content: Any) -> None:
    note = folder / NOTE
    note.unlink(missing_ok=True)
    if content is not None:
        note.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


FOREIGN = {
    "corpus": "../../elsewhere", "tokens": "/etc", "proxy": "s3://other/run/proxy/0123456789ab",
    "clusters": "clusters/0123456789ab", "subset/s2l-9": "subset/s2l-9-01234567", "x": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    rest_thorough([
        None, b"", b'{"stages": {"corp', b"\xff\xfe\x00", b"null", b"3", b'"text"', b"[1, 2]", b"{}", b"[" * 100_000,
        {"stages": None}, {"stages": []}, {"stages": {"corpus": None, "clusters": ["a"]}}, {"stages": FOREIGN},
        {"stages": {name: f"{name}/000000000000" for name in STAGES}},
    ], 4),
)  # fmt: skip
def test_a_run_is_found_whatever_its_note_says_and_that_is_said(maker, caplog, content):
    whole(maker)
    damage(maker.folder, content)
    assert sorted(maker.names()) == sorted(WHOLE)
    [said] = {record.getMessage() for record in caplog.records}
    assert NOTE in said
    assert "found by their manifests" in said
    run = load_run(str(maker.folder))
    run.note_chain()
    caplog.clear()
    assert sorted(maker.names()) == sorted(WHOLE)
    assert not caplog.records, "a good note is nothing to speak of"


def test_a_note_that_is_a_folder_blocks_nothing(maker):
    whole(maker)
    (maker.folder / NOTE).mkdir()
    assert sorted(maker.names()) == sorted(WHOLE)


def test_the_order_is_that_of_the_work_the_configured_first(maker):
    whole(maker)
    assert maker.names() == WHOLE


@pytest.mark.parametrize(
    "changed",
    rest_thorough([
        {"clusters__num_clusters": 5}, {"clusters__seed": 3}, {"proxy__learning_rate": 1e-4}, {"proxy__seed": 4},
        {"trajectories__num_snapshots": 3}, {"proxy__max_length": 32}, {"corpus__duplicates": "keep"},
        {"heldout__share": 0.1}, {"seed": 9},
    ]),
)  # fmt: skip
@pytest.mark.parametrize("noted", [False, True])
def test_every_selection_has_its_own_subsets_and_changing_back_finds_the_first(maker, changed, noted):
    """Without a note, and with one that is the other's."""
    whole(maker)
    first = load_run(str(maker.folder))
    maker.storage.write_bytes(CONFIG, to_yaml(maker.use(**changed)).encode())
    maker.subset("s2l-0.7", maker.chain(), seed=maker.config.seed_of("selection"))
    second = load_run(str(maker.folder))
    assert list(second.subsets) == ["s2l-0.7"]
    assert list(second.targets) in ([], ["full"]), "all of the data is the same, whatever the clusters are"
    assert second.stages["clusters"].folder != first.stages["clusters"].folder
    if noted:
        second.note_chain()
    maker.storage.write_bytes(CONFIG, to_yaml(first.config).encode())
    again = load_run(str(maker.folder))
    assert {n: s.folder for n, s in again.stages.items()} == {n: s.folder for n, s in first.stages.items()}


@pytest.mark.thorough
def test_an_edited_corpus_of_the_same_settings_is_the_noted_one_else_the_last(maker):
    """Only the files' content tells the two apart."""
    first = whole(maker)
    load_run(str(maker.folder)).note_chain()
    settings = maker.config.corpus.model_dump(mode="json", exclude={"read_bytes_per_task"})
    other = {"corpus": maker.make("corpus", settings, {"files": "edited"})}
    for name in STAGES[1:]:
        [old] = [p for p in (maker.folder / name).iterdir() if not p.name.startswith(".")][:1]
        kept = json.loads((old / "manifest.json").read_text())["settings"]
        other[name] = maker.make(name, kept, {n: other[n] for n in READS[name]})
    maker.subset("s2l-0.9", other)
    assert "s2l-0.9" not in load_run(str(maker.folder)).subsets
    (maker.folder / NOTE).unlink()
    assert list(load_run(str(maker.folder)).subsets) == ["s2l-0.9"]
    assert first != other


@pytest.mark.thorough
def test_what_was_made_from_another_chain_does_not_belong(maker):
    chain = whole(maker)
    before = maker.names()
    for name in ("corpus", "trajectories", "clusters"):
        maker.subset("s2l-0.3", chain | {name: "another"})
    maker.target("s2l-0.1", chain, "another subset")
    maker.target("s2l-0.3", chain, None)
    maker.target("full", chain | {"corpus": "another"}, None)
    run = load_run(str(maker.folder))
    assert list(run.stages) == before
    assert not run.others


def test_copies_and_leftovers_in_the_folder_are_no_artifacts(maker):
    whole(maker)
    before = maker.names()
    [original] = (maker.folder / "subset").glob("s2l-0.1-*")
    shutil.copytree(original, original.with_name(original.name + "-backup"))
    shutil.copytree(original, original.with_name("s2l-0.2-00000000"))
    (maker.folder / "subset/s2l-0.4-12345678").mkdir()
    (maker.folder / "subset/notes.txt").write_text("mine")
    (maker.folder / "subset/.tmp-1234-x").mkdir()
    assert maker.names() == before
    assert not load_run(str(maker.folder)).others


@pytest.mark.thorough
def test_a_damaged_manifest_costs_its_own_artifact_and_is_named(maker, caplog):
    whole(maker)
    [victim] = (maker.folder / "subset").glob("random-0.1-*/manifest.json")
    for content in (b"", b"{", b'{"stage": 3}', b"[" * 100_000):
        victim.write_bytes(content)
        caplog.clear()
        assert "subset/random-0.1" not in maker.names()
        assert "subset/s2l-0.1" in maker.names()
        assert any(victim.parent.name in record.getMessage() for record in caplog.records)
    [clusters] = (maker.folder / "clusters").glob("*/manifest.json")
    clusters.write_bytes(b"{")
    run = load_run(str(maker.folder))
    assert list(run.stages) == list(STAGES[:4])
    with pytest.raises(RunError, match="no complete clusters stage"):
        run.stage("clusters")


def test_a_run_that_has_just_begun_shows_how_far_it_has_come(maker, caplog):
    assert maker.names() == []
    maker.chain()
    shutil.rmtree(maker.folder / "clusters")
    shutil.rmtree(maker.folder / "trajectories")
    assert maker.names() == ["corpus", "tokens", "proxy"]
    assert not caplog.records
    maker.storage.write_bytes(CONFIG, to_yaml(maker.use(proxy__learning_rate=1e-4)).encode())
    assert maker.names() == ["corpus", "tokens"], "the proxy is another configuration's"


# --- cost and company -------------------------------------------------------------------------------------------------


def test_a_noted_run_is_opened_without_a_look_at_other_chains_and_never_into_artifacts(maker, monkeypatch):
    whole(maker)
    load_run(str(maker.folder)).note_chain()
    for number in range(4):
        maker.make("clusters", {"num_clusters": number}, {"trajectories": "another"})
        for part in range(5):
            maker.storage.write_bytes(f"clusters/{number}/parts/{part}", b"")
    read: list[str] = []
    listed: list[tuple[str, bool]] = []
    read_bytes, infos = Storage.read_bytes, Storage._infos

    def counted_read(self: Storage, rel: str) -> bytes:
        read.append(rel)
        return read_bytes(self, rel)

    def counted_listing(self: Storage, rel: str, recursive: bool) -> Any:
        listed.append((rel, recursive))
        return infos(self, rel, recursive)

    monkeypatch.setattr(Storage, "read_bytes", counted_read)
    monkeypatch.setattr(Storage, "_infos", counted_listing)
    assert maker.names() == WHOLE
    kinds = (
        "evaluation", "gradient-check", "gradients", "heldout", "heldout_evaluation", "signals", "subset", "target",
        "tokens",
    )  # fmt: skip
    folders = [folder for kind in kinds if (maker.folder / kind).is_dir() for folder in (maker.folder / kind).iterdir()]
    assert len(read) <= 2 + len(STAGES) + len(folders)
    assert sorted(listed) == [(kind, False) for kind in kinds]


@pytest.mark.thorough
def test_a_run_with_many_targets_is_found_on_s3(s3_uri, tmp_path):
    maker = Maker(tmp_path)  # its configuration alone
    maker.storage = Storage.open(s3_uri)
    maker.storage.write_bytes(CONFIG, to_yaml(maker.config).encode())
    chain = maker.chain()
    for number in range(15):
        maker.target(f"s2l-{number}", chain, maker.subset(f"s2l-{number}", chain))
    run = load_run(s3_uri)
    assert len(run.subsets) == len(run.targets) == 15


@pytest.mark.thorough
def test_a_run_is_opened_while_another_process_makes_and_deletes_artifacts(maker):
    """Folders come and go between the listing and the reading."""
    import threading

    chain = whole(maker)
    stop = threading.Event()

    def disturb() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            maker.subset(f"s2l-{number % 7 + 10}", chain)
            shutil.rmtree(maker.folder / "subset" / os.listdir(maker.folder / "subset")[0], ignore_errors=True)
            if not any((maker.folder / "subset").iterdir()):
                shutil.rmtree(maker.folder / "subset")

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(30):
            assert set(STAGES) <= set(maker.names())
    finally:
        stop.set()
        thread.join()


def test_a_folder_without_a_run_gets_no_lock(tmp_path):
    from s2l_ray import finetune, select

    for call in (lambda: select(str(tmp_path / "typo"), 5), lambda: finetune(str(tmp_path / "typo"))):
        with pytest.raises(RunError, match="holds no run"):
            call()
    assert not (tmp_path / "typo").exists()
