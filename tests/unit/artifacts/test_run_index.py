"""Which artifacts belong to a run: found by manifests alone, whatever `run.json` says and whoever wrote it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.index import NOTE, READS
from s2l_ray.artifacts.manifest import StageManifest, read_manifest, write_manifest
from s2l_ray.artifacts.run import CONFIG, STAGES, UNFINISHED, Run, RunError, load_run, read_config
from s2l_ray.config import S2LConfig, load_config, to_yaml
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import tiny_run_config


class Maker:
    """Writes manifests as the stages do; no files but those."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder, self.storage, self.clock = folder, Storage.open(folder), 0
        self.use(**changes)
        self.storage.write_bytes(CONFIG, to_yaml(self.config).encode())

    def use(self, **changes: Any) -> S2LConfig:
        tree = tiny_run_config(self.folder, **changes)
        tree["target"] = {**tree["proxy"], **tree.get("target", {})}
        self.config = load_config(tree)
        return self.config

    def make(
        self, name: str, settings: dict[str, Any], inputs: dict[str, str], folder: str = "", content: str = "",
        **extra: Any,
    ) -> str:  # fmt: skip
        """→ content."""
        kind = "tokens" if name.startswith("target-tokens") else name.partition("/")[0]
        key = fingerprint([kind, settings, inputs])
        named = kind in ("subset", "target", "evaluation")
        place = f"{folder or name}-{key[:8]}" if named else f"{kind}/{key[:12]}"
        content = content or fingerprint(["content", key])
        self.clock += 1
        write_manifest(self.storage.sub(place), StageManifest(
            stage=name, key=key, settings=settings, inputs=inputs, content_fingerprint=content, extra=extra,
            finished_at=f"2026-01-01T00:{self.clock // 60:02}:{self.clock % 60:02}+00:00",
        ))  # fmt: skip
        return content

    def chain(self) -> dict[str, str]:
        """Stage → content, of the present configuration."""
        c = self.config
        made: dict[str, str] = {}
        training = c.proxy.model_dump(mode="json", exclude={"render", "precision"}) | {"seed": c.seed_of("proxy")}
        settings: dict[str, dict[str, Any]] = {
            "corpus": c.corpus.model_dump(mode="json", exclude={"read_bytes_per_task"}),
            "tokens": c.proxy.model_dump(mode="json", include={"train_tokenizer", "max_length"}) | {"model": None},
            "proxy": training | {"precision": "fp32", "trajectories": c.trajectories.model_dump(mode="json")},
            "trajectories": {},
            "clusters": c.clusters.model_dump(mode="json") | {"seed": c.seed_of("clusters")},
        }
        if c.heldout.share:
            settings["corpus"]["held_out"] = [c.heldout.share, c.seed]
        for name, reads in READS.items():
            made[name] = self.make(name, settings[name], {n: made[n] for n in reads})
        return made

    def subset(self, label: str, chain: dict[str, str], seed: int = 0) -> str:
        inputs = {n: chain[n] for n in ("corpus", "trajectories", "clusters")}
        return self.make(f"subset/{label}", {"seed": seed, "budget": len(label)}, inputs)

    def target(self, label: str, chain: dict[str, str], subset: str | None, **settings: Any) -> str:
        read = {"corpus": chain["corpus"]} | ({"subset": subset} if subset else {})
        tokens = self.make(f"target-tokens/{label}", {"max_length": 64}, read)
        heldout = self.make("heldout", {}, {"corpus": chain["corpus"], "tokenizer": "t"})
        trained = {"learning_rate": 3e-3, "seed": 0, "total_steps": 7} | settings
        return self.make(f"target/{label}", trained, {"tokens": tokens, "heldout": heldout})

    def marked(self, chain: dict[str, str], **marks: Any) -> tuple[str, str]:
        """A subset `s2l-0.1`, its tokens and its target. Whatever its marks, the examples are the same, and so are the
        tokens.

        Args:
            marks: `weighted`, `stages` and `options`, as the subset stage says them.

        Returns:
            Content of the subset and of the target.
        """
        inputs = {n: chain[n] for n in ("corpus", "trajectories", "clusters")}
        asked = marks.get("options", {})
        content = fingerprint(["chosen", marks.get("weighted"), marks.get("stages")])
        settings = {"selector": "s2l", "seed": 0, "budget": 7, "options": asked, "stratify": False}
        self.make("subset/s2l-0.1", settings, inputs, content=content, **marks)
        read = {"corpus": chain["corpus"], "subset": content}
        tokens = self.make("target-tokens/s2l-0.1", {"max_length": 64}, read, content="the same tokens")
        trained: dict[str, Any] = {"learning_rate": 3e-3, "seed": 0, "total_steps": 7}
        if "stages" in marks:
            trained["replay"] = asked.get("replay", "cumulative")
        of_marks = {"subset": content} if marks.get("weighted") or "stages" in marks else {}
        return content, self.make("target/s2l-0.1", trained, {"tokens": tokens} | of_marks)

    def names(self) -> list[str]:
        return list(load_run(str(self.folder)).stages)


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "run")


WHOLE = [*STAGES, "subset/s2l-0.1", "subset/random-0.1", "target-tokens/s2l-0.1", "heldout", "target/s2l-0.1",
         "target-tokens/full", "target/full"]  # fmt: skip


def whole(maker: Maker) -> dict[str, str]:
    chain = maker.chain()
    maker.subset("random-0.1", chain)
    maker.target("full", chain, None)
    maker.target("s2l-0.1", chain, maker.subset("s2l-0.1", chain))
    return chain


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
    [
        None, b"", b'{"stages": {"corp', b"\xff\xfe\x00", b"null", b"3", b'"text"', b"[1, 2]", b"{}", b"[" * 100_000,
        {"stages": None}, {"stages": []}, {"stages": {"corpus": None, "clusters": ["a"]}}, {"stages": FOREIGN},
        {"stages": {name: f"{name}/000000000000" for name in STAGES}},
    ],
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
    assert maker.names() == [
        *STAGES, "subset/s2l-0.1", "subset/random-0.1", "target-tokens/s2l-0.1", "heldout", "target/s2l-0.1",
        "target-tokens/full", "target/full",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"clusters__num_clusters": 5}, {"clusters__seed": 3}, {"proxy__learning_rate": 1e-4}, {"proxy__seed": 4},
        {"trajectories__num_snapshots": 3}, {"proxy__max_length": 32}, {"corpus__duplicates": "keep"},
        {"heldout__share": 0.1}, {"seed": 9},
    ],
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


def test_of_one_name_the_configured_seed_is_the_runs_and_the_others_are_kept_apart(maker):
    chain = whole(maker)
    for seed in (5, 6):
        maker.subset("s2l-0.1", chain, seed=seed)
    maker.subset("s2l-0.5", chain, seed=7)
    maker.subset("s2l-0.5", chain, seed=8)
    run = load_run(str(maker.folder))
    assert run.subsets["s2l-0.1"].manifest.settings["seed"] == 0
    assert run.subsets["s2l-0.5"].manifest.settings["seed"] == 8, "none is configured: the last"
    assert sorted(s.manifest.settings["seed"] for s in run.others) == [5, 6, 7]
    for other in run.others:
        assert other.name == other.folder
        assert run.subset(other.name.removeprefix("subset/")).folder == other.folder
    with pytest.raises(RunError, match=r"no subset 's2l-0\.4' \(there: s2l-0\.1, random-0\.1, s2l-0\.5\)"):
        run.subset("s2l-0.4")


def test_of_several_targets_the_configured_one_is_the_runs(maker):
    chain = maker.chain()
    subset, seeded = maker.subset("s2l-0.1", chain), maker.subset("s2l-0.1", chain, seed=5)
    maker.target("s2l-0.1", chain, subset)
    expected = load_run(str(maker.folder)).targets["s2l-0.1"].folder
    maker.target("s2l-0.1", chain, subset, learning_rate=1.0)
    maker.target("s2l-0.1", chain, subset, seed=1)
    maker.target("s2l-0.1", chain, seeded)
    run = load_run(str(maker.folder))
    assert run.targets["s2l-0.1"].folder == expected
    assert len([s for s in run.others if s.name.startswith("target/")]) == 3


WEIGHTED: dict[str, Any] = {"weighted": True, "options": {"weights": "cluster"}}


@pytest.mark.parametrize("weighted_first", [False, True])
@pytest.mark.parametrize("configured", [{}, {"selection__weights": "cluster"}])
def test_a_target_of_weighted_examples_is_not_taken_for_one_of_the_same_without(maker, configured, weighted_first):
    maker.storage.write_bytes(CONFIG, to_yaml(maker.use(**configured)).encode())
    chain = maker.chain()
    made = {}
    for marks in [WEIGHTED, {}] if weighted_first else [{}, WEIGHTED]:
        made[bool(marks)] = maker.marked(chain, **marks)
    run = load_run(str(maker.folder))
    subset, target = made[bool(configured)]
    assert run.subsets["s2l-0.1"].content == subset
    assert run.targets["s2l-0.1"].content == target
    assert run.stage("target-tokens/s2l-0.1").manifest.inputs["subset"] == subset


@pytest.mark.parametrize("replay", ["cumulative", "none"])
def test_a_target_of_other_stages_or_another_replay_is_not_taken_for_the_configured_one(maker, replay):
    """Only the target says which replay it was trained with: the subsets' examples and stages are the same."""
    chain = maker.chain()
    made = {}
    for one in ("cumulative", "none"):
        made[one] = maker.marked(chain, stages=3, options={"replay": one})
    newest = next(p for p in maker.folder.glob("subset/*") if read_option(p) == replay)
    touch(newest)
    run = load_run(str(maker.folder))
    assert read_option(maker.folder / run.subsets["s2l-0.1"].folder) == replay
    assert run.targets["s2l-0.1"].content == made[replay][1]


def read_option(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["settings"]["options"]["replay"])


def touch(folder: Path) -> None:
    """Make it the one finished last."""
    storage = Storage.open(folder)
    manifest = read_manifest(storage)
    assert manifest is not None
    write_manifest(storage, manifest.model_copy(update={"finished_at": "2026-01-02T00:00:00+00:00"}))


def test_evaluations_of_targets_that_are_no_longer_the_runs_are_not_shown(maker):
    chain = whole(maker)
    corpus = {"corpus": chain["corpus"]}
    target = load_run(str(maker.folder)).targets["full"].content
    for label, model in (("full", target), ("full", "an earlier one"), ("s2l-0.3", "of a subset that is gone"),
                         ("base", "b"), ("model-other", "m")):  # fmt: skip
        inputs = corpus | {"model": model}
        maker.make(f"evaluation/{label}/mcq", {}, inputs, f"evaluation/{label}-mcq")
    shown = [name for name in load_run(str(maker.folder)).stages if name.startswith("evaluation/")]
    assert shown == ["evaluation/base/mcq", "evaluation/full/mcq", "evaluation/model-other/mcq"]


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


# --- the configuration ------------------------------------------------------------------------------------------------


def test_a_command_that_was_begun_changes_nothing_until_its_selection_is_complete(maker, caplog):
    """Interrupted, or refused for a typing error in its corpus."""
    whole(maker)
    before = load_run(str(maker.folder))
    other = maker.use(clusters__num_clusters=5)
    begun = Run(other, maker.storage)
    begun.begin(other)
    caplog.clear()
    now = load_run(str(maker.folder))
    assert now.config == before.config
    assert list(now.stages) == WHOLE
    assert read_config(maker.storage, unfinished=True) == other, "a sweep of the folder goes on with what was begun"
    made = maker.chain()
    begun.find_stages()
    begun.commit()
    assert not maker.storage.exists(UNFINISHED)
    done = load_run(str(maker.folder))
    assert done.config == other
    assert done.stages["clusters"].manifest.content_fingerprint == made["clusters"]
    assert not done.subsets


def test_killed_between_the_two_writes_of_a_commit_the_run_is_whole(maker):
    whole(maker)
    first, config = load_run(str(maker.folder)), maker.config
    maker.use(clusters__num_clusters=5)
    maker.subset("s2l-0.7", maker.chain())
    second = Run(maker.config, maker.storage)
    second.find_stages()
    second.note_chain()  # and no more
    assert {n: s.folder for n, s in load_run(str(maker.folder)).stages.items()} == {
        n: s.folder for n, s in first.stages.items()
    }
    maker.storage.write_bytes(CONFIG, to_yaml(maker.config).encode())
    first.note_chain()  # the other way round
    assert list(load_run(str(maker.folder)).subsets) == ["s2l-0.7"]
    assert config != maker.config


def test_a_first_run_is_stored_at_once(maker):
    maker.chain()
    shutil.rmtree(maker.folder / "clusters")
    other = maker.use(clusters__num_clusters=5)
    Run(other, maker.storage).begin(other)
    assert read_config(maker.storage) == other
    assert not maker.storage.exists(UNFINISHED)


@pytest.mark.parametrize("content", [b"", b"{", b"- 1", b"\xff\xfe\x00\x01", b"corpus: 3", b"*x"])
def test_a_damaged_configuration_is_named_with_the_cure_and_written_anew(maker, content):
    whole(maker)
    maker.storage.write_bytes(CONFIG, content)
    with pytest.raises(RunError, match=r"config\.yaml cannot be used: (\n|.)*`s2l run` with this run's"):
        load_run(str(maker.folder))
    Run(maker.config, maker.storage).begin(maker.config)
    assert sorted(maker.names()) == sorted(WHOLE)


def test_settings_that_a_newer_version_has_added_lose_no_run(maker):
    """The stored configuration knows a field that the manifests, made before it, do not."""
    whole(maker)
    for path in maker.folder.glob("clusters/*/manifest.json"):
        folder = maker.storage.sub(f"clusters/{path.parent.name}")
        manifest = read_manifest(folder)
        assert manifest is not None
        del manifest.settings["init"]
        write_manifest(folder, manifest)
    assert sorted(maker.names()) == sorted(WHOLE)


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
    assert len(read) <= 2 + len(STAGES) + sum(len(list((maker.folder / k).iterdir())) for k in
                                              ("subset", "tokens", "heldout", "target"))  # fmt: skip
    kinds = ("evaluation", "gradient-check", "gradients", "heldout", "signals", "subset", "target", "tokens")
    assert sorted(listed) == [(kind, False) for kind in kinds]


def test_a_run_with_many_targets_is_found_on_s3(s3_uri, tmp_path):
    maker = Maker(tmp_path)  # its configuration alone
    maker.storage = Storage.open(s3_uri)
    maker.storage.write_bytes(CONFIG, to_yaml(maker.config).encode())
    chain = maker.chain()
    for number in range(15):
        maker.target(f"s2l-{number}", chain, maker.subset(f"s2l-{number}", chain))
    run = load_run(s3_uri)
    assert len(run.subsets) == len(run.targets) == 15


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
