"""The notebook in examples/, executed from its first cell to its last at a reduced size."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.paths import ROOT

SMALL = ["corpus.quickstart.num_examples=600", "proxy.epochs=1", "trajectories.num_snapshots=3", "target.max_steps=4",
         "clusters.num_clusters=8"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_notebook_runs(tmp_path: Path):
    import nbclient
    import nbformat

    notebook = nbformat.read(ROOT / "examples/quickstart.ipynb", as_version=4)
    [settings] = [cell for cell in notebook.cells if "OVERRIDES: list[str] = []" in cell.source]
    settings.source = settings.source.replace("OVERRIDES: list[str] = []", f"OVERRIDES = {SMALL!r}")
    done = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [cell.outputs for cell in done.cells if cell.cell_type == "code"]
    assert all(outputs[1:]), "every cell but the first shows something"
    assert (tmp_path / "runs/quickstart/report/index.html").stat().st_size > 100_000
