"""The section `gradients`: whether gradients are alike within clusters, and which subset has the corpus's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from s2l_ray.config.section import Section, bounded, refuse_repeated

Moment = Literal["start", "middle", "last"]


class GradientsConfig(Section):
    num_examples: int = bounded(3000, 10_000, "their gradients are held in one process's memory", ge=100)
    """Number of examples whose gradients are computed, sampled uniformly; small clusters are topped up to 16."""
    snapshots: list[Moment] | None = Field(default=None, min_length=1)
    """States of the proxy: untrained (`start`), the snapshot nearest to half of its steps (`middle`), trained (`last`).
    None: all of these whose weights exist. A run with a `gradients` section keeps those of the middle one."""
    kind: Literal["head", "lora"] = "head"
    """Parameters to differentiate by. `head`: the language-model head, in closed form from a forward pass. `lora`:
    fresh adapters in all other linear layers, with a forward and a backward pass per example."""
    seed: int | None = bounded(None, 2**32 - 1, "the largest seed that all libraries accept, 32 bits", ge=0)
    """Seed of this section; None: the run's seed."""

    @field_validator("snapshots")
    @classmethod
    def _once(cls, snapshots: list[Moment] | None) -> list[Moment] | None:
        refuse_repeated("gradients.snapshots", snapshots or [])
        return snapshots
