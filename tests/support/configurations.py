"""Configurations to change, and the words in which one is refused."""

from __future__ import annotations

from typing import Any

import pytest

from s2l_ray.config import ConfigError, load_config
from s2l_ray.errors import MAX_MESSAGE

MINIMAL: dict[str, Any] = {"corpus": {"paths": ["a.jsonl"]}, "proxy": {"model": "some/model"}}
SCRATCH: dict[str, Any] = {
    "corpus": {"paths": ["a.jsonl"]},
    "proxy": {"from_config": {"model_type": "llama"}, "train_tokenizer": {}},
}


def refused(source: Any, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    assert len(str(caught.value)) <= MAX_MESSAGE
    return str(caught.value)
