"""A short run's figures, as trackers are given them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from s2l_ray.config.loggers import LoggersConfig
from s2l_ray.observability.loggers import Loggers
from s2l_ray.storage.folder import Storage

KEY = "0123456789abcdef0123456789abcdef01234567"


SECRET = "hf_" + "S" * 30


SETTINGS = {"model": "m", "hf_token": "</s>", "uri": "s3://bucket/x\ud800", "train": {"lr": 1e-3, "ids": [1, 2]}}


def log_some(config: LoggersConfig, storage: Storage, steps=(1, 2, 4)) -> None:
    with Loggers(config, storage, "trial", "target/s2l", SETTINGS) as loggers:
        for step in steps:
            loggers.log(step, loss_nats=1 / step, tokens_per_s=np.float32(100))
        loggers.log(steps[-1], **{"heldout/balanced/macro": math.nan, "bound": math.inf, "unmeasured": None})
        loggers.summary(best={"loss_nats": 0.25}, choice="s2l", label="nan", api_key="kept")


def assert_no_secret(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        for secret in (SECRET, "pass9876", KEY):
            assert secret.encode() not in content, path


def events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator
