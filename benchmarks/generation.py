"""New tokens per second when answering questions in batches and one by one; greedy, with the same text.

    python benchmarks/generation.py                          # a small llama on CPUs, 64 prompts
    python benchmarks/generation.py --questions 256 --hidden-size 512 --layers 8 --budgets 2048 16384

Prompts have random tokens and the lengths of maths questions; the model has random weights and rarely ends, so that
every completion has all its new tokens. Each budget is measured after a separate warm-up. Times are wall-clock times,
with processor times next to them in case others use the machine.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_ray.lm.generate import CacheShape, Decoding, Generated, Generator, plan_batches

VOCAB = 2048


def model_of(hidden_size: int, layers: int) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", hidden_size=hidden_size, intermediate_size=4 * hidden_size, num_hidden_layers=layers,
        num_attention_heads=max(1, hidden_size // 32), vocab_size=VOCAB, max_position_embeddings=4096,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def prompts_of(num: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4.2, 0.5, num), 16, 400).astype(int)
    return [rng.integers(2, VOCAB, length).tolist() for length in lengths]


def measure(model: Any, prompts: list[list[int]], decoding: Decoding) -> tuple[list[Generated], float, float]:
    """Return (completions, wall-clock seconds, processor seconds)."""
    device = next(model.parameters()).device
    generator = Generator(model, decoding, device)
    generator(prompts[:2])
    wall, processor = time.perf_counter(), time.process_time()
    made = generator(prompts)
    return made, time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--budgets", type=int, nargs="+", default=[1024, 4096, 16_384], help="tokens a batch")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, prompts = model_of(arguments.hidden_size, arguments.layers).to(device), prompts_of(arguments.questions)
    num_parameters = sum(p.numel() for p in model.parameters())
    cache = CacheShape.of(model.config).bytes_per_token(4)
    print(
        f"{num_parameters:,} parameters, {len(prompts)} prompts of {np.mean([*map(len, prompts)]):.0f} tokens, {device}"
    )
    print("| tokens a batch | batches | largest cache, MB | new tokens/s | of the processor | × one by one |")
    print("|---|---|---|---|---|---|")
    lengths, first, texts = [len(prompt) for prompt in prompts], 0.0, None
    for budget in (1, *arguments.budgets):
        decoding = Decoding(arguments.new_tokens, (1,), 0, tokens_per_batch=budget)
        batches = plan_batches(lengths, arguments.new_tokens, budget)
        made, wall, processor = measure(model, prompts, decoding)
        tokens = sum(one.num_new_tokens for one in made)
        texts, first = texts or made, first or processor
        largest = max(len(rows) * (lengths[rows[0]] + arguments.new_tokens) for rows in batches) * cache / 1e6
        name = "one by one" if budget == 1 else f"{budget:,}"
        print(
            f"| {name} | {len(batches)} | {largest:.1f} | {tokens / wall:,.0f} | {tokens / processor:,.0f} | "
            f"{first / processor:.1f} |"
        )
        if device.type == "cpu" and made != texts:
            raise SystemExit("the text differs from that generated one by one")
    print("the same texts every time" if device.type == "cpu" else "texts of other batches may differ on a GPU")


if __name__ == "__main__":
    main()
