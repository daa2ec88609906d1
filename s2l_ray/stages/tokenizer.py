"""Opens the tokenizer stored with tokens, and computes its fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2l_ray.artifacts.stage import Stage
from s2l_ray.lm.identity import tokenizer_digest
from s2l_ray.storage.scratch import scratch_folder


def open_tokenizer(tokens: Stage) -> Any:
    """Load the tokenizer stored with the tokens, from the manifest's files only."""
    from transformers import AutoTokenizer

    with scratch_folder() as local:
        for output in tokens.manifest.outputs:
            if output.name.startswith("tokenizer/"):
                path = Path(local, output.name.removeprefix("tokenizer/"))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tokens.storage.read_bytes(output.name))
        return AutoTokenizer.from_pretrained(local)


def tokenizer_fingerprint(tokens: Stage) -> str:
    """Fingerprint of the tokenizer stored with the tokens."""
    names = [o.name for o in tokens.manifest.outputs if o.name.startswith("tokenizer/")]
    return tokenizer_digest((name, tokens.storage.read_bytes(name)) for name in names)
