"""Chooses the engine: asks the nodes for vLLM, and the run which versions have generated its text so far."""

from __future__ import annotations

import contextlib

from s2l_ray.artifacts.manifest import EarlierLayout, StageManifest, read_manifest
from s2l_ray.config.evaluation import EvaluationConfig
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.evaluation.engines import (
    TRANSFORMERS,
    VLLM,
    Engine,
    EngineNode,
    choose_engine,
    possible_engines,
)
from s2l_ray.stages.evaluation.models import AskedModel
from s2l_ray.storage.folder import Storage


class EngineChoice:
    """The choice of engines during one command."""

    def __init__(self, context: RunContext, config: EvaluationConfig) -> None:
        self.context, self.config = context, config
        self.nodes: list[EngineNode] = []
        """Nodes that can hold a worker; filled only if vLLM generates."""

    @property
    def card(self) -> str:
        """The nodes' type of GPU."""
        return " or ".join(sorted({str(node.card) for node in self.nodes}))

    def of(self, model: AskedModel) -> Engine:
        """The engine that generates for a model. For vLLM, waits until nodes are up and asks them.

        Raises:
            EvaluationError: vLLM is configured but cannot be used.
        """
        from s2l_ray.stages.evaluation.build import ask_nodes

        layout, say = self.context.layout, self.context.progress.say
        placement = layout.placements["evaluation"]
        by_vllm = self.config.generation.engine == VLLM
        if by_vllm and placement.device == "gpu" and not self.nodes:
            layout.wait_for_capacity("evaluation", say)
            self.nodes = ask_nodes(placement, layout.embedded)
        return choose_engine(self.config, model.source, placement, self.nodes)

    def that_may_have_answered(self, label: str, task: str) -> list[Engine]:
        """Every engine that may have generated the text that the configuration refers to, found without asking any
        node."""
        found = possible_engines(self.config, None)
        if self.config.generation.engine == TRANSFORMERS:
            return found
        storage, begins = self.context.run.storage, f"{label}-{task}-"
        folders = [folder for folder in storage.folders("generation") if folder.startswith(begins)]
        manifests = [_manifest_of(storage.sub("generation", folder)) for folder in folders]
        used = [Engine.of(made.settings) for made in manifests if made and made.settings.get("engine") == VLLM]
        return [*found, *(one for one in used if self.config.generation.dtype in ("auto", one.dtype))]


def _manifest_of(storage: Storage) -> StageManifest | None:
    """The folder's manifest; None if the stage is not complete or was built by an earlier version."""
    with contextlib.suppress(EarlierLayout):
        return read_manifest(storage)
    return None
