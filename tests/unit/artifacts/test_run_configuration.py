"""The configuration of a run: when it is stored, and what damage costs."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

import pytest
import yaml

from s2l_ray.artifacts.manifest import read_manifest, write_manifest
from s2l_ray.artifacts.run import CONFIG, UNFINISHED, Run, RunError, load_run, read_config
from s2l_ray.cli import main
from s2l_ray.config import load_config, to_yaml
from s2l_ray.config.load import ConfigError
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


@pytest.fixture
def stored(maker):
    """A run with the configuration as a command stores it."""
    whole(maker)
    run = Run(maker.config, maker.storage)
    run.find_stages()
    run.begin(maker.config)
    run.commit()
    return maker


def refused(maker: Maker) -> None:
    told = r"config\.yaml was changed after s2l wrote it (.|\n)*`s2l run` with this run's configuration .*rewrites it"
    with pytest.raises(RunError, match=told):
        load_run(str(maker.folder))
    with pytest.raises(RunError, match=told):
        read_config(maker.storage, unfinished=True)


def test_a_configuration_that_lost_its_end_is_noticed_wherever_it_is_cut(stored):
    """YAML that ends after any line is valid, and says less."""
    file = stored.folder / CONFIG
    content = file.read_bytes()
    lines = content.splitlines(keepends=True)
    assert load_run(str(stored.folder)).config == stored.config
    valid = 0
    for kept in [lines[:end] for end in range(1, len(lines), 9)] + [lines[:-1], [lines[0][:30]]]:
        file.write_bytes(b"".join(kept))
        with contextlib.suppress(ConfigError, yaml.YAMLError, TypeError):
            valid += load_config(yaml.safe_load(file.read_bytes())) != stored.config
        refused(stored)
    assert valid > 10, "most of the cut files would have been used"
    file.write_bytes(content)
    assert load_run(str(stored.folder)).config == stored.config


@pytest.mark.parametrize("name", [CONFIG, UNFINISHED])
def test_an_edited_configuration_is_noticed(stored, name, capsys):
    file = stored.folder / name
    content = (stored.folder / CONFIG).read_bytes()
    for changed in (
        content.replace(b"num_clusters: 8", b"num_clusters: 9"), content.replace(b"name: tiny", b"name: 2026-01-01"),
        content.replace(b"Digest: ", b"Digest: 0"), content.replace(b"seed: 0", b"seed: .nan", 1), content + b"- 1\n",
    ):  # fmt: skip
        assert changed != content
        file.write_bytes(changed)
        with pytest.raises(RunError, match=rf"{re.escape(name)} was changed after s2l wrote it"):
            read_config(stored.storage, unfinished=True)
        assert main(["verify", str(stored.folder)]) == 1
        assert f"{file} was altered" in capsys.readouterr().out
    file.write_bytes(content.replace(b"num_clusters: 8", b"num_clusters: 9").partition(b"\n")[2])  # as the message says
    assert read_config(stored.storage, unfinished=True).clusters.num_clusters == 9


def test_other_line_ends_and_comments_do_no_harm(stored):
    file = stored.folder / CONFIG
    content = file.read_bytes()
    for changed in (content.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + content, content + b"# mine\n"):
        file.write_bytes(changed)
        assert load_run(str(stored.folder)).config == stored.config
    file.write_bytes(content.partition(b"\n")[2])  # as earlier versions stored it
    assert load_run(str(stored.folder)).config == stored.config


def test_the_command_rewrites_what_was_changed(stored):
    file = stored.folder / CONFIG
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    Run(stored.config, stored.storage).begin(stored.config)
    assert file.read_bytes() == content
    assert sorted(stored.names()) == sorted(WHOLE)


def test_a_changed_configuration_that_is_run_is_said(stored, tmp_path, caplog):
    """An edited copy is what people start from; a damaged one is not."""
    copy = tmp_path / "copy.yaml"
    content = (stored.folder / CONFIG).read_bytes()
    for changed, told in ((content, False), (content.replace(b"seed: 0", b"seed: 1", 1), True),
                          (content.replace(b"seed: 0", b"seed: 1", 1).partition(b"\n")[2], False)):  # fmt: skip
        copy.write_bytes(changed)
        caplog.clear()
        assert load_config(copy).seed == (changed != content)
        assert ("was changed after s2l wrote it" in caplog.text) is told


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
