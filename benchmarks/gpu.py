"""Training, scoring, clustering and fine-tuning on one GPU. No Ray, no network; random weights and tokens.

    python benchmarks/gpu.py env proxy score --out results
    python benchmarks/gpu.py target --out results

Every row is written when it is measured, to OUT/gpu.jsonl and as a table to OUT/gpu.md. All sections take about twenty
minutes on an H100; run them separately if a machine is available for less. `--tiny` runs all of them on a CPU in a
minute and says nothing about speed.

  env      the machine's roofline: a bf16 matrix product, a copy in its memory, the start of a kernel.
  proxy    training steps of Pythia-70M's shape on 128 examples as long as the maths corpus's (mean 181, longest 512).
  score    the same model scoring a part of 4,096 examples, against the published loop of one example a pass.
  kmeans   10⁷ trajectories of 12 snapshots into 100 clusters.
  target   a step on 128 examples of models of 2.7 billion parameters, PyTorch alone: MFU, memory beside the estimate.
MFU is useful model FLOPs (no padding, the head on response tokens alone) over the data sheet's bf16 peak.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from comparison.measured_rows import MeasuredRows
from comparison.published import score_one_by_one
from comparison.random_models import SHAPES, random_examples, random_model

from s2l_ray.config.proxy import ProxyConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.data.token_examples import Examples
from s2l_ray.lm.batches import Batching
from s2l_ray.lm.engine import TorchEngine
from s2l_ray.lm.flops import ModelShape, peak_flops
from s2l_ray.lm.memory import ModelSizes, estimate_memory
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.lm.score import Scorer
from s2l_ray.lm.step import Stepper, autocast_for

SECTIONS = ("env", "proxy", "score", "kmeans", "target")
BATCH = 128


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.tiny, self.repeats = args.tiny, 2 if args.tiny else args.repeats
        self.device = torch.device("cuda" if torch.cuda.is_available() and not args.tiny else "cpu")
        self.rows = MeasuredRows(args.out)
        self.budgets = [256, 1024] if args.tiny else args.budgets
        self.modes = args.modes
        self.shapes = ["tiny"] if args.tiny else args.shapes

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], repeats: int | None = None, warm_up: int = 1) -> float:
        """Measure the median time of a few calls."""
        times = []
        for i in range((repeats or self.repeats) + warm_up):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            if i >= warm_up:
                times.append(time.perf_counter() - started)
        return statistics.median(times)

    def fresh(self) -> None:
        """Free the GPU's memory from the previous measurement."""
        gc.collect()
        torch._dynamo.reset()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def memory_gb(self) -> dict[str, float]:
        if not self.on_gpu:
            return {}
        return {
            "allocated_gb": torch.cuda.max_memory_allocated() / 1e9,
            "reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
        }

    # --- sections --------------------------------------------------------------------------------------------------

    def env(self) -> None:
        size, width = (256, 2**16) if self.tiny else (8192, 2**30)
        dtype = torch.bfloat16 if self.on_gpu else torch.float32
        a, b = (torch.randn(size, size, device=self.device, dtype=dtype) for _ in range(2))
        source = torch.ones(width, device=self.device, dtype=torch.int32)
        target = torch.empty_like(source)
        small = torch.zeros(1, device=self.device)

        def launches() -> None:
            for _ in range(1000):
                small.add_(1)

        name = torch.cuda.get_device_name() if self.on_gpu else platform.processor() or "CPU"
        self.rows.add(
            "env", device=name, torch=torch.__version__, transformers=transformers.__version__,
            product_tflops=2 * size**3 / self.seconds(lambda: a @ b, 10, 3) / 1e12,
            copy_tb_per_s=8 * width / self.seconds(lambda: target.copy_(source), 10, 3) / 1e12,
            launch_us=self.seconds(launches) * 1e3,
        )  # fmt: skip

    def proxy(self) -> None:
        for budget in self.budgets:
            for mode in self.modes:
                with self.reported("proxy", mode=mode, budget=budget):
                    self.train(self.shapes[0] if self.tiny else "pythia-70m", mode, budget, "proxy")

    def target(self) -> None:
        for shape in self.shapes:
            for mode in self.modes:
                budget = self.budgets[0]
                with self.reported("target", shape=shape, mode=mode, budget=budget):
                    self.train(shape, mode, budget, "target")

    @contextlib.contextmanager
    def reported(self, section: str, **what: Any) -> Iterator[None]:
        """Record a failed measurement as a row, and continue with the others."""
        self.fresh()
        try:
            yield
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.rows.add(section, **what, error=f"{type(error).__name__}: {lines[0][:200]}")
        self.fresh()

    def train(self, shape: str, mode: str, budget: int, section: str) -> None:
        settings: dict[str, Any] = {"max_length": 128 if self.tiny else 512, "tokens_per_microbatch": budget}
        recompute = "checkpointed" in mode
        config = (
            TargetConfig(model="unused", gradient_checkpointing=recompute, **settings)
            if section == "target"
            else ProxyConfig(model="unused", **settings)
        )
        model = self.model(shape)
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        bf16 = section == "target" and self.on_gpu and "autocast" not in mode
        engine = TorchEngine(model, config, self.device, 1, bf16=bf16)
        autocast = contextlib.nullcontext if bf16 else autocast_for(self.device, "auto")
        batching = choose_batching(
            model, engine.loss, pad_id=0, device=self.device, autocast=autocast, pack="packed" in mode
        )
        started = time.perf_counter()
        if "compiled" in mode:
            engine.compile()
        stepper = Stepper(
            engine, config, total_steps=10**6, seed=0, batching=batching, device=self.device, autocast=autocast
        )
        batches = [self.examples(BATCH, seed) for seed in range(self.repeats + 3)]
        for i in range(3):
            stepper.step(i, batches[i])
        self.wait()
        first = time.perf_counter() - started
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        remaining = iter(enumerate(batches[3:], 3))
        times, real = [], []
        for step, batch in remaining:
            self.wait()
            started = time.perf_counter()
            stepper.step(step, batch)
            self.wait()
            times.append(time.perf_counter() - started)
            real.append(int(batch.offsets[-1]))
        seconds = statistics.median(times)
        figures = {
            "useful_share": self.useful_share(batching, batches[3:], budget), "ms_a_step": seconds * 1e3,
            "real_tokens_per_s": statistics.mean(real) / statistics.mean(times),
            **self.utilisation(model, batches[3:], statistics.mean(times)), **self.memory_gb(),
            "first_steps_s": first,
        }  # fmt: skip
        if isinstance(config, TargetConfig):
            precision = "bf16" if self.on_gpu else "fp32"
            with torch.device("meta"):
                bare = type(model)(copy.deepcopy(model.config))
            sizes = ModelSizes.counted(bare, config, precision, self.on_gpu)
            estimate = estimate_memory(sizes, config, 0, 1, precision, self.on_gpu)
            figures["estimated_gb"] = estimate.device_bytes / 1e9
            figures["parameters"] = sizes.num_parameters
        figures |= self.profile(lambda: stepper.step(99, batches[-1]))
        self.rows.add(section, shape=shape, mode=mode, packed=batching.packed, budget=budget, **figures)

    def score(self) -> None:
        shape = self.shapes[0] if self.tiny else "pythia-70m"
        examples = self.examples(64 if self.tiny else 4096, 0)
        few = examples.take(np.arange(0, len(examples), 16))
        model = self.model(shape).to(self.device).eval()
        autocast = autocast_for(self.device, "auto")
        loop_losses: list[float] = []

        def loop() -> None:
            loop_losses[:] = score_one_by_one(model, few, self.device, autocast)

        loop_s = self.seconds(loop, 2)
        per_token = loop_s / int(few.offsets[-1])
        self.rows.add("score", mode="published loop", real_tokens_per_s=1 / per_token)
        for budget in self.budgets:
            for mode in [m for m in self.modes if "checkpointed" not in m]:
                with self.reported("score", mode=mode, budget=budget):
                    fresh = self.model(shape).to(self.device)
                    loss = ResponseLoss(fresh)
                    batching = choose_batching(
                        fresh, loss, pad_id=0, device=self.device, autocast=autocast, pack="packed" in mode
                    )
                    if "compiled" in mode:
                        from s2l_ray.lm.engine import compile_layers

                        compile_layers(loss)
                    scorer = Scorer(loss, batching, tokens_per_batch=budget, device=self.device, autocast=autocast)
                    seconds = self.seconds(functools.partial(scorer, examples), warm_up=2)
                    losses = scorer(examples).losses
                    gap = float(np.abs(losses[::16] - np.array(loop_losses)).max())
                    self.rows.add(
                        "score", mode=mode, budget=budget, packed=batching.packed,
                        useful_share=self.useful_share(batching, [examples], budget),
                        real_tokens_per_s=int(examples.offsets[-1]) / seconds,
                        times_the_loop=int(examples.offsets[-1]) / seconds * per_token, largest_gap_nats=gap,
                        **self.utilisation(fresh, [examples], seconds, training=False), **self.memory_gb(),
                        **self.profile(functools.partial(scorer, examples)),
                    )  # fmt: skip

    def kmeans(self) -> None:
        try:
            from s2l_ray.selection.kmeans import faiss_sees_gpu, fit_kmeans

            sees = faiss_sees_gpu()
        except ImportError as error:
            self.rows.add("kmeans", error=str(error))
            return
        if sees is None:
            self.rows.add("kmeans", error="faiss is not installed")
            return
        rng = np.random.default_rng(0)
        num = 10**4 if self.tiny else 10**7
        centres = rng.uniform(0.2, 4, (200, 1)) * np.linspace(1, 0.5, 12)
        data = centres[rng.integers(0, 200, num)].astype(np.float32)
        data += rng.normal(0, 0.2, data.shape).astype(np.float32)
        for use_gpu in [False, True] if sees else [False]:
            started = time.perf_counter()
            found = fit_kmeans(
                data, num_clusters=100, seed=0, use_gpu=use_gpu, num_threads=min(16, os.cpu_count() or 1)
            )
            self.rows.add(
                "kmeans", on="GPU" if use_gpu else "CPU", points=num, seconds=time.perf_counter() - started,
                train_s=found.train_seconds, assign_s=found.assign_seconds, inertia=found.inertia,
            )  # fmt: skip

    # --- what they share -------------------------------------------------------------------------------------------

    def model(self, shape: str) -> Any:
        return random_model(shape, self.device)

    def examples(self, num: int, seed: int) -> Examples:
        vocab = SHAPES[self.shapes[0]]["vocab_size"] if self.tiny else 50_000
        return random_examples(num, seed, 100 if self.tiny else 512, vocab)

    def useful_share(self, batching: Batching, batches: list[Examples], budget: int) -> float:
        """Return the share of computed tokens that are not padding."""
        real = sum(int(b.offsets[-1]) for b in batches)
        return real / sum(batching.num_computed(b.lengths, batching.plan(b.lengths, budget)) for b in batches)

    def utilisation(self, model: Any, batches: list[Examples], seconds: float, training: bool = True) -> dict[str, Any]:
        peak = peak_flops(torch.cuda.get_device_name()) if self.on_gpu else None
        if peak is None:
            return {}
        shape = ModelShape.of(model)
        count = shape.training_flops if training else shape.forward_flops
        flops = [count(int(b.offsets[-1]), int(b.mask.sum()), int((b.lengths**2).sum())) for b in batches]
        return {"mfu": statistics.mean(flops) / seconds / peak}

    def profile(self, work: Callable[[], Any]) -> dict[str, int]:
        """Count the kernels of one call, and how often the host waited for the device."""
        if not self.on_gpu:
            return {}
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            work()
            self.wait()
        waits = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
        names = [(event.name, event.device_type) for event in found.events()]
        kernels = sum(
            kind == torch.autograd.DeviceType.CUDA and not name.startswith("Mem") and not name.startswith("## ")
            for name, kind in names
        )
        return {"kernels": kernels, "host_waits": sum(name in waits for name, _ in names) - 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), help=f"of {', '.join(SECTIONS)}; all")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of gpu.jsonl and gpu.md")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of each row; medians count")
    parser.add_argument("--budgets", type=int, nargs="+", default=[8192, 16_384, 65_536], help="tokens a micro-batch")
    parser.add_argument(
        "--modes", nargs="+", default=["padded", "packed", "packed, compiled"],
        help='for example "packed, compiled, checkpointed"',
    )  # fmt: skip
    parser.add_argument("--shapes", nargs="+", default=["phi-2", "llama-2.7b"], choices=SHAPES, help="of `target`")
    parser.add_argument("--tiny", action="store_true", help="whether it runs, on a CPU")
    args = parser.parse_args()
    unknown = set(args.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown sections {', '.join(sorted(unknown))}; known: {', '.join(SECTIONS)}")
    bench = Bench(args)
    for section in args.sections:
        getattr(bench, section)()


if __name__ == "__main__":
    main()
