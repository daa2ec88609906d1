"""The section `proxy`: the small model that is trained on the whole corpus."""

from __future__ import annotations

from typing import ClassVar

from s2l_ray.config.model import TrainedModelConfig


class ProxyConfig(TrainedModelConfig):
    section: ClassVar[str] = "proxy"
