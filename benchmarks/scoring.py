"""Compare scoring in one run: this library, the published one-example loop, the machine's matrix-product peak.

    python benchmarks/scoring.py ../shared/data/math/train.jsonl

The proxy has Pythia-70M's shape (6 layers, 512 wide, vocabulary 50,304) and random weights: speed does not depend on
them. Both ways score the same examples with the same tokens, in turn, round by round; medians of the rounds count.

What is compared:
  scoring      examples/s of our scorer and of the loop that S2L's authors published: one example a forward pass, the
               model's own full-vocabulary loss.
  peak         useful FLOPs (no padding, head on response tokens only) over the best large matrix product measured here.
  stage        T snapshots of the whole corpus: ours tokenises once, reads tokens, scores; theirs loads the model,
               tokenises and scores for every snapshot. Times of the parts are measured, the sum is arithmetic.
  pipeline     our scorer inside the Ray Train worker, with Ray Data, Parquet parts and manifests, against the same
               scorer in a plain loop on the same parts.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from comparison.published import score_one_by_one

from s2l_ray.artifacts.points import Point
from s2l_ray.config import CorpusConfig, ProxyConfig, ResourcesConfig, TrajectoriesConfig
from s2l_ray.data.render import Renderer
from s2l_ray.data.sources import plan_files
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.token_parts import read_parts
from s2l_ray.data.training_order import make_plan
from s2l_ray.execution.placement import local_cores, node_resources, place
from s2l_ray.execution.session import ray_session
from s2l_ray.execution.training import run_on_workers
from s2l_ray.lm.flops import ModelShape
from s2l_ray.lm.load import load_model
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.lm.score import Scorer
from s2l_ray.stages.corpus.build import build_corpus
from s2l_ray.stages.proxy.job import ProxyJob
from s2l_ray.stages.proxy.loop import run_worker
from s2l_ray.stages.tokens.build import build_tokens, train_corpus_tokenizer
from s2l_ray.storage.folder import Storage

T = TypeVar("T")
VOCAB = 50_304
SHAPES: dict[str, dict[str, Any]] = {
    "pythia-70m": {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048},
    # Whether the benchmark runs; its figures say nothing.
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
}
COMMON = {"model_type": "gpt_neox", "max_position_embeddings": 2048, "vocab_size": VOCAB, "rotary_pct": 0.25}
PRODUCTS = {
    "pythia-70m": [(4096, 512, 2048), (2048, 2048, 2048), (4096, 4096, 4096)],
    "tiny": [(256, 256, 256)],
}


def timed(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Return (seconds, result) of a call."""
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    return timed(work, device)[0]


def matrix_peak(shape: str, device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of the fastest of a few large products, each the median of five."""
    best = 0.0
    for m, k, n in PRODUCTS[shape]:
        a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, n, device=device, dtype=dtype)
        a @ b
        times = [seconds(functools.partial(torch.mm, a, b), device) for _ in range(5)]
        best = max(best, 2 * m * k * n / statistics.median(times))
    return best


def scorer_of(model: Any, tokens_per_batch: int, device: torch.device, autocast: Callable[[], Any]) -> Scorer:
    loss = ResponseLoss(model)
    batching = choose_batching(model, loss, pad_id=0, device=device, autocast=autocast)
    return Scorer(loss, batching, tokens_per_batch=tokens_per_batch, device=device, autocast=autocast)


def scoring_rounds(args: argparse.Namespace, model: Any, examples: Examples, device: torch.device) -> dict[str, float]:
    """Measure both ways in turn, on new examples in each round."""
    rng = np.random.default_rng(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    autocast = (lambda: torch.autocast("cuda", dtype=dtype)) if device.type == "cuda" else torch.no_grad
    ours = scorer_of(model, args.tokens_per_batch, device, autocast)
    shape = ModelShape.of(model)
    rows: list[dict[str, float]] = []
    for i in range(args.rounds + 1):
        mine = examples.take(np.sort(rng.choice(len(examples), args.examples, replace=False)))
        few = mine.take(np.arange(0, len(mine), args.loop_every))
        peak = matrix_peak(args.shape, device, dtype)
        t_ours, scores = timed(functools.partial(ours, mine), device)
        t_loop, loop_losses = timed(functools.partial(score_one_by_one, model, few, device, autocast), device)
        gap = float(np.abs(scores.losses[:: args.loop_every] - np.array(loop_losses)).max())
        lengths = mine.lengths
        flops = shape.forward_flops(int(lengths.sum()), int(mine.mask.sum()), int((lengths**2).sum()))
        ours_rate, loop_rate = len(mine) / t_ours, len(few) / t_loop
        # Tokens, not examples, where the loop saw fewer of them.
        per_token = (int(lengths.sum()) / t_ours) / (int(few.lengths.sum()) / t_loop)
        if i:  # the first round warms up
            row = {"ours": ours_rate, "loop": loop_rate, "ratio": per_token, "peak": flops / t_ours / peak}
            row |= {"peak_gflops": peak / 1e9, "tokens_per_s": int(lengths.sum()) / t_ours, "gap": gap}
            print(f"round {i}: {row['ratio']:.2f} x, {row['peak']:.0%} of peak", flush=True)
            rows.append(row)
    return {k: (max if k == "gap" else statistics.median)(r[k] for r in rows) for k in rows[0]}


def per_snapshot_costs(
    tokenizer: Any, tokens: Storage, parts: list[int], examples: Storage, model: Any
) -> dict[str, float]:
    """Measure what each way does besides scoring: loading and tokenisation there, reading here."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        from transformers import AutoModelForCausalLM

        load = statistics.median(
            [seconds(lambda: AutoModelForCausalLM.from_pretrained(folder), torch.device("cpu")) for _ in range(3)]
        )
    from s2l_ray.data.corpus_parts import part_name

    messages = [
        m for p in parts[:8] for m in examples.read_table(part_name(p), columns=["messages"])["messages"].to_pylist()
    ]

    render = Renderer(tokenizer, "alpaca", 2**20)

    def tokenise() -> None:  # as published: each text alone, prompt and whole
        for m in messages:
            [text] = render.texts(m)
            tokenizer(text.text)
            tokenizer(text.text[: text.responses[0][0]])

    cpu = torch.device("cpu")
    return {
        "load": load,
        "tokenise_per_example": seconds(tokenise, cpu) / len(messages),
        "read_per_example": seconds(lambda: read_parts(tokens, parts[:8]), cpu) / len(messages),
    }


def through_ray(
    args: argparse.Namespace, job: ProxyJob, plain: Examples, placement: Any, work: Storage
) -> dict[str, float]:
    """Measure two snapshots (before and after one step) in the Ray worker, and the same parts by the scorer alone."""
    model = load_model(job.proxy, job.tokenizer, 0)
    device = torch.device("cuda" if placement.device == "gpu" else "cpu")
    autocast = (lambda: torch.autocast("cuda", dtype=torch.bfloat16)) if device.type == "cuda" else torch.no_grad
    scorer = scorer_of(model.to(device), args.tokens_per_batch, device, autocast)
    starts = np.cumsum([0] + [n for _, n in job.plan.parts])
    parts = [plain.take(np.arange(a, b)) for a, b in itertools.pairwise(starts)]
    times, ratios = [], []
    for i in range(args.pipeline_rounds):
        before = seconds(lambda: [scorer(p) for p in parts], device)
        out = work.sub(f"pipeline-{i}")
        summary = run_on_workers(
            run_worker, ProxyJob(**{**vars(job), "out": out}), out, placement, what="proxy", max_failures=0,
            on_event=lambda event: None,
        )  # fmt: skip
        after = seconds(lambda: [scorer(p) for p in parts], device)
        ray_seconds = summary["score_seconds"] / len(job.points)
        times.append(ray_seconds)
        ratios.append((before + after) / 2 / ray_seconds)
    return {"pipeline": statistics.median(ratios), "pipeline_seconds": statistics.median(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="JSONL with instruction and output")
    parser.add_argument("--shape", choices=SHAPES, default="pythia-70m")
    parser.add_argument("--examples", type=int, default=256, help="examples scored per round")
    parser.add_argument("--loop-every", type=int, default=4, help="the loop scores every n-th of them, to save time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens-per-batch", type=int, default=8192)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--pipeline-examples", type=int, default=512, help="examples through Ray; 0: skip")
    parser.add_argument("--pipeline-rounds", type=int, default=1, help="each starts Ray Train anew")
    parser.add_argument("--snapshots", type=int, default=12)
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(local_cores())
    proxy = ProxyConfig.model_validate({
        "from_config": COMMON | SHAPES[args.shape], "train_tokenizer": {"vocab_size": VOCAB},
        "max_length": args.max_length, "max_steps": 1, "global_batch_size": 8,
    })  # fmt: skip
    corpus = CorpusConfig(paths=[args.corpus], max_quarantined_share=0.2)
    resources = ResourcesConfig()
    with tempfile.TemporaryDirectory() as folder:
        work = Storage.open(folder)
        examples, tokens = work.sub("corpus", "examples"), work.sub("tokens", "parts")
        with ray_session(resources):
            # Where torch is built for CPUs, a GPU that Ray counts is of no use.
            on = "gpu" if device.type == "cuda" else "cpu"
            placement = place(resources, node_resources(), local_cores(), device=on)
            units = plan_files(corpus.paths, corpus.read_bytes_per_task)
            built = build_corpus(units, corpus, work.sub("corpus"), 64, placement.parallelism)
            numbers = [p["part"] for p in built.parts]
            tokenizer = train_corpus_tokenizer(examples, numbers, "alpaca", VOCAB, 5000, str(Path(folder, "tokenizer")))
            started = time.perf_counter()
            parts = build_tokens(
                examples, numbers, work.sub("tokens"), tokenizer, "alpaca", args.max_length, 0.2, placement.parallelism
            )
            seconds_of_tokens = time.perf_counter() - started
        # Without Ray's processes beside: scoring alone, and the loop has the machine to itself as well.
        rows = [(p["part"], p["rows"]) for p in parts.parts]
        model = load_model(proxy, tokenizer, 0).to(device).eval()
        everything = read_parts(tokens, [p for p, _ in rows])
        figures = scoring_rounds(args, model, everything, device)
        figures |= per_snapshot_costs(tokenizer, tokens, [p for p, _ in rows], examples, model)
        n, t = parts.num_examples, args.snapshots
        theirs = t * (figures["load"] + n * (figures["tokenise_per_example"] + 1 / figures["loop"]))
        score_once = n / (figures["loop"] * figures["ratio"])
        ours = seconds_of_tokens + t * (n * figures["read_per_example"] + score_once)
        figures |= {"stage_ratio": theirs / ours, "stage_theirs_s": theirs, "stage_ours_s": ours}
        if args.pipeline_examples:
            some = rows[: max(1, args.pipeline_examples // 64)]
            settings = TrajectoriesConfig(num_snapshots=2, tokens_per_batch=args.tokens_per_batch)
            plan = make_plan(some, 8, 1, 1, 0)
            job = ProxyJob(proxy, settings, plan, (Point(0), Point(1)), 0, tokenizer, tokens, work, placement.threads)
            with ray_session(resources):
                figures |= through_ray(args, job, read_parts(tokens, [p for p, _ in some]), placement, work)
    report(figures, parts, device, args)


def report(figures: dict[str, float], parts: Any, device: torch.device, args: argparse.Namespace) -> None:
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    share = parts.num_response_tokens / parts.num_tokens
    f = figures
    print(
        f"{parts.num_examples:,} examples, {parts.num_tokens / parts.num_examples:.0f} tokens each, {share:.0%} of "
        f"them response; {name}; medians of {args.rounds} rounds\n"
        f"scoring   ours {f['ours']:.1f} examples/s ({f['tokens_per_s']:,.0f} tokens/s), published loop "
        f"{f['loop']:.1f}: {f['ratio']:.2f} x per token; largest difference {f['gap']:.1e} nats\n"
        f"peak      {f['peak']:.0%} of {f['peak_gflops']:,.0f} GFLOP/s in useful FLOPs\n"
        f"stage     T = {args.snapshots}: {f['stage_ratio']:.2f} x "
        f"({f['stage_theirs_s'] / 60:.0f} min → {f['stage_ours_s'] / 60:.0f} min)"
    )
    if "pipeline" in f:
        print(f"pipeline  {f['pipeline']:.0%} of the scorer in a plain loop")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
