"""Cost of fine-tuning a target: memory and its estimate, tokens/s, model FLOPs utilisation. Random weights.

    python benchmarks/target.py --shape 1b --zero-stage 3 --offload cpu --precision bf16 --steps 1
    ray job submit --address http://head:8265 --working-dir . -- \
        python benchmarks/target.py --shape 2.7b --zero-stage 2 --precision bf16 --steps 30 --workers 1

It runs the real stages: a small embedded corpus, a tiny proxy, a random subset, then the target on Ray Train workers.
The exported model (2 or 4 bytes a parameter) and everything else go to a temporary folder and are deleted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import s2l_ray
from s2l_ray.data.quickstart import write_corpus

SHAPES: dict[str, dict[str, Any]] = {
    # Llama's kind, the second of Phi-2's size: https://huggingface.co/microsoft/phi-2/blob/main/config.json
    "tiny": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4},
    "1b": {
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
        "num_key_value_heads": 4, "vocab_size": 16_000, "tie_word_embeddings": True,
    },
    "2.7b": {
        "hidden_size": 2560, "intermediate_size": 6880, "num_hidden_layers": 32, "num_attention_heads": 32,
        "vocab_size": 51_200,
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--zero-stage", type=int, choices=(0, 1, 2, 3), default=3)
    parser.add_argument(
        "--offload", choices=("none", "cpu", "nvme"), default="none",
        help="optimiser and, in stage 3, parameters; nvme: the optimiser alone, to a temporary folder (needs libaio)",
    )  # fmt: skip
    parser.add_argument(
        "--accumulate", choices=("fp32", "bf16"), default="fp32",
        help="type of the gradients that micro-batches add up to; bf16 spares 2 bytes a parameter",
    )  # fmt: skip
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), default="auto")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="examples in an optimiser step")
    parser.add_argument("--tokens-per-microbatch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = s2l_ray.run(configuration(args, folder))
        report(args, next(iter(run.targets.values())).manifest)


def configuration(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    tokenizer = {"train_tokenizer": {"vocab_size": 300}, "render": "plain", "max_length": 64}
    positions = {"model_type": "llama", "max_position_embeddings": 64}
    zero: dict[str, Any] = {"zero_stage": args.zero_stage}
    if args.offload != "none":
        zero["offload_optimizer"] = args.offload
        if args.offload == "nvme":
            zero["nvme_path"] = folder
        elif args.zero_stage == 3:
            zero["offload_parameters"] = args.offload
    if args.accumulate == "bf16":
        own = Path(folder, "deepspeed.json")
        own.write_text(json.dumps({"data_types": {"grad_accum_dtype": "bf16"}}))
        zero["deepspeed_config"] = str(own)
    return {
        "name": "benchmark-target", "run_dir": f"{folder}/run",
        # As a file: the quickstart as such would be evaluated on its test, before and after.
        "corpus": {"paths": [str(write_corpus(Path(folder), 2000)[0])]},
        "proxy": {"from_config": positions | SHAPES["tiny"], "max_steps": 4, "global_batch_size": 32, **tokenizer},
        "trajectories": {"num_snapshots": 2}, "clusters": {"num_clusters": 4},
        "selection": {"budgets": [0.5], "selectors": ["random"]},
        "target": {
            "from_config": positions | SHAPES[args.shape], **tokenizer, **zero, "max_steps": args.steps,
            "global_batch_size": args.batch, "precision": args.precision, "log_every_steps": 1,
            "tokens_per_microbatch": args.tokens_per_microbatch, "gradient_checkpointing": args.gradient_checkpointing,
        },
        "resources": {"target": {"workers": args.workers}},
    }  # fmt: skip


def report(args: argparse.Namespace, manifest: Any) -> None:
    summary, estimate = manifest.extra["summary"], manifest.extra["memory"]
    tally = summary["tally"]
    measured, expected = max(summary["peak_memory_bytes"]), estimate["device_bytes"]
    mfu = "unknown peak" if summary["mfu"] is None else f"{summary['mfu']:.1%}"
    print(
        f"{summary['num_parameters'] / 1e9:.2f} billion parameters, ZeRO-{args.zero_stage}, offload {args.offload}, "
        f"{args.workers} x {summary['device']}\n"
        f"memory    {measured / 1e9:.1f} GB per worker at its peak, {expected / 1e9:.1f} GB estimated "
        f"({expected / measured - 1:+.0%})\n"
        f"speed     {tally['tokens'] / tally['train_seconds']:,.1f} tokens/s over {summary['steps']} steps of "
        f"{tally['tokens'] / summary['steps']:.0f} tokens; MFU {mfu}"
    )


if __name__ == "__main__":
    main()
