"""What the command line refuses ends with exit code 2, wherever it is noticed, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2l_ray.cli import main
from s2l_ray.config import load_config
from s2l_ray.config.load import ConfigError
from tests.support.report_runs import MadeRun


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one snapshot, so that what compares snapshots is refused."""
    return MadeRun(tmp_path_factory.mktemp("made") / "run", num_snapshots=1, targets=()).make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stratify", "nope"], "stratify='nope': that column is not a facet of this corpus (its facets: ['topic'])"),
        (["selection.options.s2l.stratify=nope"], "'nope': that column is not a facet of this corpus"),
        (["selection.guard.rules=[rise]"], "the guard rise compares snapshots, but there is only one"),
    ],
)
def test_a_selection_that_the_run_cannot_give_is_refused(options, message, made, capsys):
    """Only the run's data show it, once they are read."""
    before = sorted(made.glob("subset/*"))
    assert main(["select", str(made), "--budget", "0.1", *options]) == 2
    assert message in capsys.readouterr().err
    assert sorted(made.glob("subset/*")) == before


@pytest.mark.parametrize("command", ["inspect", "verify", "report", "evaluate", "gradients"])
@pytest.mark.parametrize(
    ("run", "message"),
    [("s3://", "names no bucket; write s3://bucket/folder"), ("o\udcff", "holds a byte that is not UTF-8"),
     ("nosuch://x", "needs its fsspec package"), ("file://host/x", "names a host")],
)  # fmt: skip
def test_a_run_that_cannot_be_named_so(command, run, message, capsys):
    assert main([command, run]) == 2
    assert message in capsys.readouterr().err


def test_a_column_that_the_configuration_does_not_make_a_facet_is_refused_before_a_run():
    with pytest.raises(ConfigError, match=r"balancing by 'nope' \(s2l_robust\) .* has only \['topic'\]; add it there"):
        load_config("quickstart", ["corpus.facets=[topic]", "selection.stratify=nope"])
    load_config("quickstart", ["corpus.facets=[topic]", "selection.stratify=topic"])
    load_config("quickstart", ["selection.stratify=detected"])
