"""Runs of manifests alone, as the stages write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2l_ray.artifacts.chain import READS
from s2l_ray.artifacts.manifest import StageManifest, write_manifest
from s2l_ray.artifacts.run import CONFIG, STAGES, load_run
from s2l_ray.config import S2LConfig, load_config, to_yaml
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import tiny_run_config


class Maker:
    """Writes manifests as the stages do; no files but those."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder, self.storage, self.clock = folder, Storage.open(folder), 0
        self.use(**changes)
        self.storage.write_bytes(CONFIG, to_yaml(self.config).encode())

    def use(self, **changes: Any) -> S2LConfig:
        tree = tiny_run_config(self.folder, **changes)
        tree["target"] = {**tree["proxy"], **tree.get("target", {})}
        self.config = load_config(tree)
        return self.config

    def make(
        self, name: str, settings: dict[str, Any], inputs: dict[str, str], folder: str = "", content: str = "",
        **extra: Any,
    ) -> str:  # fmt: skip
        """→ content."""
        kind = "tokens" if name.startswith("target-tokens") else name.partition("/")[0]
        key = fingerprint([kind, settings, inputs])
        place = f"{folder or name}-{key[:8]}" if "/" in name and kind != "tokens" else f"{kind}/{key[:12]}"
        content = content or fingerprint(["content", key])
        self.clock += 1
        write_manifest(self.storage.sub(place), StageManifest(
            stage=name, key=key, settings=settings, inputs=inputs, content_fingerprint=content, extra=extra,
            finished_at=f"2026-01-01T00:{self.clock // 60:02}:{self.clock % 60:02}+00:00",
        ))  # fmt: skip
        return content

    def chain(self) -> dict[str, str]:
        """Stage → content, of the present configuration."""
        c = self.config
        made: dict[str, str] = {}
        training = c.proxy.model_dump(mode="json", exclude={"render", "precision"}) | {"seed": c.seed_of("proxy")}
        settings: dict[str, dict[str, Any]] = {
            "corpus": c.corpus.model_dump(mode="json", exclude={"read_bytes_per_task"}),
            "tokens": c.proxy.model_dump(mode="json", include={"train_tokenizer", "max_length"}) | {"model": None},
            "proxy": training | {"precision": "fp32", "trajectories": c.trajectories.model_dump(mode="json")},
            "trajectories": {},
            "clusters": c.clusters.model_dump(mode="json") | {"seed": c.seed_of("clusters")},
        }
        if c.heldout.share:
            settings["corpus"]["held_out"] = [c.heldout.share, c.seed]
        for name, reads in READS.items():
            made[name] = self.make(name, settings[name], {n: made[n] for n in reads})
        return made

    def subset(self, label: str, chain: dict[str, str], seed: int = 0) -> str:
        inputs = {n: chain[n] for n in ("corpus", "trajectories", "clusters")}
        return self.make(f"subset/{label}", {"seed": seed, "budget": len(label)}, inputs)

    def target(self, label: str, chain: dict[str, str], subset: str | None, **settings: Any) -> str:
        read = {"corpus": chain["corpus"]} | ({"subset": subset} if subset else {})
        tokens = self.make(f"target-tokens/{label}", {"max_length": 64}, read)
        heldout = self.make("heldout", {}, {"corpus": chain["corpus"], "tokenizer": "t"})
        trained = {"learning_rate": 3e-3, "seed": 0, "total_steps": 7} | settings
        made = self.make(f"target/{label}", trained, {"tokens": tokens})
        self.evaluation(label, made, heldout)
        return made

    def evaluation(self, label: str, target: str, heldout: str) -> str:
        """Of a target, on the held-out sets of this content."""
        base = self.make("heldout_evaluation/base", {}, {"heldout": heldout})
        return self.make(f"heldout_evaluation/{label}", {}, {"target": target, "heldout": heldout, "base": base})

    def marked(self, chain: dict[str, str], **marks: Any) -> tuple[str, str]:
        """A subset `s2l-0.1`, its tokens and its target. Whatever its marks, the examples are the same, and so are the
        tokens.

        Args:
            marks: `weighted`, `stages` and `options`, as the subset stage says them.

        Returns:
            Content of the subset and of the target.
        """
        inputs = {n: chain[n] for n in ("corpus", "trajectories", "clusters")}
        asked = marks.get("options", {})
        content = fingerprint(["chosen", marks.get("weighted"), marks.get("stages")])
        settings = {"selector": "s2l", "seed": 0, "budget": 7, "options": asked, "stratify": False}
        self.make("subset/s2l-0.1", settings, inputs, content=content, **marks)
        read = {"corpus": chain["corpus"], "subset": content}
        tokens = self.make("target-tokens/s2l-0.1", {"max_length": 64}, read, content="the same tokens")
        trained: dict[str, Any] = {"learning_rate": 3e-3, "seed": 0, "total_steps": 7}
        if "stages" in marks:
            trained["replay"] = asked.get("replay", "cumulative")
        of_marks = {"subset": content} if marks.get("weighted") or "stages" in marks else {}
        return content, self.make("target/s2l-0.1", trained, {"tokens": tokens} | of_marks)

    def names(self) -> list[str]:
        return list(load_run(str(self.folder)).stages)


WHOLE = [*STAGES, "subset/s2l-0.1", "subset/random-0.1", "target-tokens/s2l-0.1", "heldout", "target/s2l-0.1",
         "heldout_evaluation/base", "heldout_evaluation/s2l-0.1", "target-tokens/full", "target/full",
         "heldout_evaluation/full"]  # fmt: skip


def whole(maker: Maker) -> dict[str, str]:
    chain = maker.chain()
    maker.subset("random-0.1", chain)
    maker.target("full", chain, None)
    maker.target("s2l-0.1", chain, maker.subset("s2l-0.1", chain))
    return chain
