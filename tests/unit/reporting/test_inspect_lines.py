"""`s2l inspect` on a narrow terminal: nothing is cut off, and what is told is what was made."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from s2l_ray.artifacts.run import load_run
from s2l_ray.cli import main
from s2l_ray.reporting.inspect import inspect_run, sparkline
from tests.support.report_runs import MadeRun

LONG = "[bold]What is it?[/bold] :smile: " + "word " * 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> MadeRun:
    run = MadeRun(
        tmp_path_factory.mktemp("inspect") / "run", num_examples=400, text=lambda row: (f"{LONG}{row}", "漢字" * 40),
        quarantined=(("a long file's name.jsonl", "no JSON " * 20),), budgets=(0.1, 0.2, 0.3, 0.4),
    )  # fmt: skip
    run.make()
    return run


def inspected(made: MadeRun, width: int = 80, **options: Any) -> list[str]:
    out = io.StringIO()
    inspect_run(load_run(str(made.folder)), Console(file=out, width=width), **options)
    return out.getvalue().splitlines()


@pytest.mark.thorough
def test_no_line_is_wider_than_the_terminal_and_no_markup_is_read(made):
    lines = [line for line in inspected(made, by="topic", examples=2) if str(made.folder) not in line]
    assert max(map(cell_len, lines)) <= 80
    assert any("[bold]What is it?[/bold] :smile:" in line for line in lines)
    assert not any("…" in line for line in lines if "word" in line)
    assert any("the other subsets need" in line for line in lines)


def test_a_line_says_how_much_of_its_cluster_was_taken_and_examples_whether_they_were(made):
    lines = inspected(made, examples=1)
    rows = np.bincount(made.clusters)
    taken = np.bincount(made.clusters[made.chosen["s2l-0.2"]], minlength=len(rows))
    assert any("taken: by s2l-0.2" in line for line in lines)
    for cluster, size in enumerate(rows):
        line = next(line for line in lines if line.split()[:2] == [str(cluster), str(size)])
        assert f"{taken[cluster] / size:.0%}" in line
    marks = [line.strip().split()[0] for line in lines if line.strip().startswith(("chosen ", "left out "))]
    assert len(marks) == len(rows)


def test_one_cluster_alone(made, capsys):
    assert main(["inspect", str(made.folder), "--cluster", "3", "--json"]) == 0
    [cluster] = json.loads(capsys.readouterr().out)["clusters"]
    rows = np.flatnonzero(made.clusters == 3)
    assert (cluster["cluster"], cluster["size"]) == (3, len(rows))
    assert len(cluster["examples"]) == len(cluster["chosen"]) == min(10, len(rows))
    assert cluster["taken"] == np.isin(rows, made.chosen["s2l-0.2"]).sum()
    assert main(["inspect", str(made.folder), "--cluster", "99"]) == 2
    assert "no cluster 99 in this run; its clusters are 0 to 5" in capsys.readouterr().err


def test_sparklines_are_on_a_log_scale():
    assert sparkline([10.0, 1.0, 0.1], 0.1, 10.0) == "█▅▁"
    assert sparkline([0.0, 5.0], 0.0, 5.0) == "▁█"
    assert sparkline([2.0, 2.0], 2.0, 2.0) == "▁▁"


def test_the_end_of_a_run_fits_a_narrow_terminal(made):
    from s2l_ray.reporting.summary import target_lines

    run = load_run(str(made.folder))
    lines = [line for line in target_lines(run) if str(Path(made.folder)) not in line]
    assert max(map(len, lines)) <= 92, max(lines, key=len)
    told = "\n".join(lines).replace("\n    ", " ")
    assert "s2l-0.2 is better than the full data in held-out loss" in told
    assert "One seed" in told
    assert "FLOPs, once for all targets" in told
