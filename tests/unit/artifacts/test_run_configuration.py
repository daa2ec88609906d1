"""The configuration of a run: when it is stored, and what damage costs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from s2l_ray.artifacts.manifest import read_manifest, write_manifest
from s2l_ray.artifacts.run import CONFIG, UNFINISHED, Run, RunError, load_run, read_config
from s2l_ray.config import to_yaml
from tests.support.run_maker import WHOLE, Maker, whole


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "run")


@pytest.mark.thorough
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


@pytest.mark.thorough
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
