"""Budgets beyond the corpus are refused as soon as its size is known, before anything is trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import s2l_ray
from s2l_ray.config import load_config
from s2l_ray.errors import UserError
from s2l_ray.selection.quotas import check_budgets_fit
from s2l_ray.sweeps.run import sweep
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl


def test_counts_alone_can_be_too_large_and_all_of_them_are_named():
    check_budgets_fit("here", [1, 600, 1.0, 0.5], 600)
    with pytest.raises(UserError, match=r"^here requests 601, 7,000 examples, but there are only 600.*at most 600"):
        check_budgets_fit("here", [600, 601, 1.0, 7000], 600)


def test_a_run_ends_before_its_proxy(ray_cluster, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=r"selection\.budgets requests 10,000 examples, but there are only \d+"):
        s2l_ray.run(tiny_run_config(folder, selection__budgets=[0.1, 10_000]), progress=Quiet())
    assert list(folder.glob("corpus/*/manifest.json"))
    assert not (folder / "tokens").exists()


def test_examples_that_cannot_be_tokenised_do_not_count(ray_cluster, tmp_path):
    """Of five of them the proxy's length leaves no response."""
    rows = [{"prompt": f"{n} " * (300 if n < 5 else 3), "completion": f"{n}"} for n in range(100)]
    folder, file = tmp_path / "run", write_jsonl(tmp_path / "rows.jsonl", rows)
    tree = tiny_run_config(folder, selection__budgets=[96])
    tree["corpus"] = {"paths": [str(file)], "max_quarantined_share": 0.5}
    with pytest.raises(UserError, match=r"selection\.budgets requests 96 examples, but there are only 95"):
        s2l_ray.run(tree, progress=Quiet())
    assert list(folder.glob("tokens/*/manifest.json"))
    assert not (folder / "proxy").exists()


def test_a_sweep_goes_by_its_own_budgets(finished, tmp_path):
    source, later = finished.storage.local_path(), ("proxy", "trajectories", "clusters", "subset")
    folder = Path(shutil.copytree(source, tmp_path / "run", ignore=shutil.ignore_patterns(*later)))
    tree = tiny_run_config(folder, selection__budgets=[99_999])
    tree |= {"target": {**tree["proxy"]}, "sweep": {"budgets": [0.1, 10_000], "num_seeds": 1}}
    with pytest.raises(UserError, match=r"sweep\.budgets requests 10,000 examples, but there are only \d+") as caught:
        sweep(load_config(tree), progress=Quiet())
    assert not (folder / "proxy").exists()
    assert "99,999" not in str(caught.value)
