"""Snapshots that the gradient check looks at, weights that a run keeps for it, and what it says where they are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.manifest import StageManifest
from s2l_ray.artifacts.outputs import OutputFile
from s2l_ray.artifacts.points import Point, middle_point
from s2l_ray.artifacts.run import RunError
from s2l_ray.artifacts.snapshots import Snapshot
from s2l_ray.artifacts.stage import Stage
from s2l_ray.cli import main
from s2l_ray.config import S2LConfig, load_config
from s2l_ray.config.load import ConfigError
from s2l_ray.stages.gradients.stage import weights_of
from s2l_ray.stages.proxy.stage import _kept
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import tiny_run_config
from s2l_ray.workflow.gradients import compare_gradients
from s2l_ray.workflow.preflight import PreflightError, preflight


def config(folder: Path, **changes: Any) -> S2LConfig:
    return load_config(tiny_run_config(folder, **changes))


def proxy(folder: Path, steps: list[int], kept: tuple[int, ...], epochs: tuple[int, ...] = ()) -> Stage:
    """A manifest that names the weights after the last step, and those of the snapshots `kept`."""
    snapshots = [
        Snapshot(i, step, "w", 9, 1.0, epoch=0 if i in epochs else None).plain() for i, step in enumerate(steps)
    ]
    names = ["model/model.safetensors", *(f"snapshots/snapshot-{i:03d}/model/model.safetensors" for i in kept)]
    manifest = StageManifest(
        stage="proxy", key="k", outputs=[OutputFile(name=name, size=1, digest="d") for name in names],
        extra={"snapshots": snapshots, "flops": {}, "summary": {}},
    )  # fmt: skip
    return Stage("proxy", "proxy/k", Storage.open(folder), manifest)


@pytest.mark.parametrize(
    ("steps", "epochs", "expected"),
    [
        ([0, 10, 20, 30, 40], (), 2), ([1, 14, 27, 40], (), 1), ([1, 16, 24, 40], (), 1), ([1, 40], (), 0),
        ([0, 40], (), None), ([40], (), None), ([0, 20, 40], (1,), None), ([5, 15, 25, 40], (0, 2), 1),
    ],
)  # fmt: skip
def test_the_middle_is_the_scored_point_nearest_to_half(
    steps: list[int], epochs: tuple[int, ...], expected: int | None
) -> None:
    points = [Point(step, 0 if i in epochs else None) for i, step in enumerate(steps)]
    assert middle_point(points) == expected


def test_a_run_with_the_section_keeps_the_middle(tmp_path: Path) -> None:
    points = [Point(step) for step in (0, 10, 20, 30, 40)]
    assert _kept(config(tmp_path), points) == ()
    assert _kept(config(tmp_path, gradients={}), points) == (2,)
    asking = config(tmp_path, gradients={}, selection__selectors=["facility_location"],
                    selection__reference={"snapshot": "early", "early_share": 0.2})  # fmt: skip
    assert _kept(asking, points) == (1, 2)


def test_snapshots_whose_weights_there_are(tmp_path: Path) -> None:
    found, notes = weights_of(config(tmp_path), proxy(tmp_path, [1, 14, 27, 40], kept=(1,)))
    assert [(one.name, one.step) for one in found] == [("start", 0), ("middle", 14), ("last", 40)]
    assert found[0].files == ()
    assert found[1].files == ("snapshots/snapshot-001/model/model.safetensors",)
    assert found[2].files == ("model/model.safetensors",)
    assert not notes
    asked = config(tmp_path, gradients={"snapshots": ["last", "start"]})
    assert [one.name for one in weights_of(asked, proxy(tmp_path, [1, 14, 40], ()))[0]] == ["start", "last"]


def test_weights_that_are_gone_are_left_out_with_a_note_or_refused_by_name(tmp_path: Path) -> None:
    gone = proxy(tmp_path, [1, 14, 27, 40], kept=())
    found, notes = weights_of(config(tmp_path), gone)
    assert [one.name for one in found] == ["start", "last"]
    [note] = notes
    assert note.startswith("middle is skipped: the proxy's weights after step 14 were not kept")
    assert "delete proxy/k in the run's folder" in note
    assert str(tmp_path) not in note, "a run may be moved, and this is stored with the stage"
    assert "`s2l run CONFIG gradients.kind=head`" in note
    asked = config(tmp_path, gradients={"snapshots": ["middle"]})
    with pytest.raises(RunError, match=r"gradients.snapshots includes middle, but the proxy's weights after step 14"):
        weights_of(asked, gone)
    with pytest.raises(RunError, match="no snapshot between the first step and the last; or leave middle out"):
        weights_of(asked, proxy(tmp_path, [20, 40], kept=(), epochs=(0, 1)))


def test_what_the_command_cannot_change_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = config(tmp_path / "run")
    from s2l_ray.artifacts.run import Run

    with pytest.raises(ConfigError, match=r"'proxy.epochs=9': `s2l gradients` trains and selects nothing"):
        compare_gradients(Run(made, Storage.open(tmp_path / "run")), ["proxy.epochs=9"])
    assert main(["gradients", str(tmp_path / "nothing")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_dry_run_of_a_run_with_the_section_names_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "quickstart", f"run_dir={tmp_path / 'run'}", "target=null", "--dry-run"]
    assert main(command) == 0
    assert "gradient-check" not in capsys.readouterr().out
    assert main([*command, "gradients.num_examples=500"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "→ gradient-check, on at least 500 examples: two forward passes at each snapshot" in told


def test_a_sample_too_small_for_the_clusters_is_refused_before_the_proxy_is_trained(tmp_path: Path) -> None:
    own = [f"run_dir={tmp_path / 'run'}", "target=null", "clusters.num_clusters=60"]
    preflight(load_config("quickstart", [*own, "gradients.num_examples=120"]))
    with pytest.raises(PreflightError, match=r"num_examples=119 is less than two for each of .*raise it to 120"):
        preflight(load_config("quickstart", [*own, "gradients.num_examples=119"]))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"snapshots": ["last", "last"]}, "lists 'last' twice"), ({"snapshots": []}, "gradients.snapshots"),
        ({"snapshots": ["late"]}, "late"), ({"num_examples": 50}, "100"), ({"kind": "full"}, "head"),
    ],
)  # fmt: skip
def test_faults_of_the_section(section: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, gradients=section)
