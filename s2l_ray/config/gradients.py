"""The section `gradients`: whether gradients are alike within clusters, and which subset has the corpus's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from s2l_ray.config.section import Section, bounded, refuse_repeated

Moment = Literal["start", "middle", "last"]


class GradientsConfig(Section):
    num_examples: int = bounded(3000, 10_000, "and their gradients are held in one process's memory", ge=100)
    """Examples whose gradients are computed, drawn uniformly; clusters that get few of them are filled up to 16."""
    snapshots: list[Moment] | None = Field(default=None, min_length=1)
    """Of the proxy: untrained (`start`), the snapshot nearest to half of its steps (`middle`), trained (`last`). None:
    all three, or those of them whose weights there are. With a section `gradients` a run keeps the middle one's."""
    kind: Literal["head", "lora"] = "head"
    """Gradients by what. `head`: the language-model head, in closed form from a forward pass. `lora`: fresh adapters in
    all other linear layers, a forward and a backward pass for each example alone."""
    seed: int | None = bounded(None, 2**32 - 1, "the largest seed that all libraries take (32 bits)", ge=0)
    """Seed of this section; None: the run's seed."""

    @field_validator("snapshots")
    @classmethod
    def _once(cls, snapshots: list[Moment] | None) -> list[Moment] | None:
        refuse_repeated("gradients.snapshots", snapshots or [])
        return snapshots
