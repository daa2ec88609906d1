"""Trackers start as on a machine without accounts."""

from __future__ import annotations

import os
import sys

import pytest

from tests.support.loggers import SECRET


@pytest.fixture
def private(tmp_path, monkeypatch):
    """Neither this machine's logins nor the network; a command line with a secret, as overrides may have."""
    for name in [n for n in os.environ if n.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setattr(sys, "argv", ["s2l", "run", f"corpus.hf_token={SECRET}"])
