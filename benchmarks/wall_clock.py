"""Measure the wall-clock time of selection from 10⁴ to 10⁶ examples: S2L, facility location by the proxy's and by the
target's embeddings, and random, each split into training a reference model, scoring with it, and selecting.

    python benchmarks/wall_clock.py --out wall-clock
    python benchmarks/wall_clock.py --rates rates.json --out wall-clock     # models measured elsewhere
    python benchmarks/wall_clock.py --runs runs/mine --out wall-clock       # and a point from a run's manifests

Selecting is measured at every size, each in a process of its own, on synthetic curves and embeddings. Training and
scoring are measured on a sample (random tokens, random weights) and multiplied by the size, the epochs and the
snapshots: dashed in the picture, and marked in the table. On CPUs seconds are those of one core, which others' work
does not lengthen; on a GPU they are the clock's. Writes OUT/wall_clock.json, and the picture as PNG and SVG.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
from every_selector import synthetic_inputs
from selection import synthetic_curves

from s2l_ray.artifacts.run import load_run
from s2l_ray.reporting.charts.cost import wall_clock_bars
from s2l_ray.reporting.facts_worth import WallClock
from s2l_ray.reporting.frame import framed
from s2l_ray.reporting.look import LOOKS, WIDTH, Rows, data, dressed, log_axis, look_of
from s2l_ray.reporting.wall_clock import wall_clocks
from s2l_ray.selection import SelectionInputs, needs_of, order_examples, resolve_options
from s2l_ray.selection.kmeans import fit_kmeans
from s2l_ray.selection.signals import RESPONSE_EMBEDDING
from s2l_ray.text.formats import format_duration

PYTHIA_14M = {
    "model_type": "gpt_neox", "hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4,
    "intermediate_size": 512, "vocab_size": 50_304, "max_position_embeddings": 2048, "rotary_pct": 0.25,
}  # fmt: skip
BY_PROXY, BY_TARGET = "facility location, by the proxy", "facility location, by the target"
WHO = {"S2L": "s2l", BY_PROXY: "facility_location", BY_TARGET: BY_TARGET, "random": "random"}
"""Who chooses → the selector, or the name of its own, in whose colour it is drawn."""
RATES = ("proxy_train", "proxy_score", "proxy_embed", "target_train", "target_embed")
"""Seconds per example and pass."""


def measure_rates(args: argparse.Namespace) -> dict[str, Any]:
    """Measure seconds per example for one pass of training, scoring or embedding, on `args.sample` examples."""
    from comparison.random_models import SHAPES  # torch, which processes that only select do not wait for
    from gpu import Bench

    SHAPES["pythia-14m"] = PYTHIA_14M
    found: dict[str, Any] = {}
    for model, shape in (("proxy", args.proxy), ("target", args.target)):
        settings = argparse.Namespace(
            tiny=shape == "tiny", repeats=2, out=args.out, budgets=[4096], modes=[], shapes=[shape]
        )
        bench = Bench(settings)
        found[model], found["device"] = shape, "one GPU" if bench.on_gpu else "one core of a CPU"
        passes = _passes(bench, shape, bench.examples(args.sample, 0))
        for name in (rate for rate in RATES if rate.startswith(model)):
            found[name] = _seconds(bench, passes[name.partition("_")[2]]) / args.sample
    return found


def _passes(bench: Any, shape: str, examples: Any) -> dict[str, Callable[[], Any]]:
    from s2l_ray.config.proxy import ProxyConfig
    from s2l_ray.lm.embed import Embedder
    from s2l_ray.lm.engine import TorchEngine
    from s2l_ray.lm.packing import choose_batching
    from s2l_ray.lm.response_loss import ResponseLoss
    from s2l_ray.lm.score import Scorer
    from s2l_ray.lm.step import Stepper, autocast_for

    network = bench.model(shape)
    config = ProxyConfig(model="unused", max_length=512, tokens_per_microbatch=4096)
    engine = TorchEngine(network, config, bench.device, 1)
    how: dict[str, Any] = {"device": bench.device, "autocast": autocast_for(bench.device, "auto")}
    batching = choose_batching(network, engine.loss, pad_id=0, **how)
    stepper = Stepper(engine, config, total_steps=100, seed=0, batching=batching, **how)
    loss = ResponseLoss(network.to(bench.device))
    score = Scorer(loss, batching, tokens_per_batch=4096, **how)
    embed = Embedder(RESPONSE_EMBEDDING, loss, batching, tokens_per_batch=4096, **how)
    return {"train": lambda: stepper.step(0, examples), "score": lambda: score(examples),
            "embed": lambda: embed(examples)}  # fmt: skip


def _seconds(bench: Any, work: Callable[[], Any]) -> float:
    """Measure the seconds of a call after the first one: of one core on a CPU, by the clock on a GPU."""
    import torch

    if bench.on_gpu:
        return float(bench.seconds(work))
    torch.set_num_threads(1)
    work()
    started = time.process_time()
    work()
    return time.process_time() - started


def measure_selection(selector: str, num: int, args: argparse.Namespace) -> float:
    """Measure the seconds of one core from stored scores to a chosen subset, in this process."""
    rng = np.random.default_rng(0)
    budget = max(1, int(args.budget * num))
    if selector == "s2l":
        curves = synthetic_curves(num, args.snapshots, 0)
        ids = rng.integers(0, 2**64, size=(num, 2), dtype=np.uint64)
        started = time.process_time()
        clusters = fit_kmeans(curves, num_clusters=args.clusters, seed=0).assignment
        inputs = SelectionInputs(ids, clusters)
    else:
        needs = needs_of(selector, resolve_options(selector))
        inputs = synthetic_inputs(num, args.dim, args.clusters, needs, 0)
        started = time.process_time()
    assert len(order_examples(selector, inputs, 0, None, budget).take(budget).rows) == budget
    return time.process_time() - started


def clocks_of(
    num: int, rates: dict[str, Any], selecting: dict[str, float], args: argparse.Namespace
) -> list[WallClock]:
    """Compute training and scoring times from the rates."""
    training, target = (args.epochs * num * rates[f"{model}_train"] for model in ("proxy", "target"))
    location = selecting["facility_location"]
    return [
        WallClock("S2L", training, args.snapshots * num * rates["proxy_score"], selecting["s2l"], False),
        WallClock(BY_PROXY, training, num * rates["proxy_embed"], location, False),
        WallClock(BY_TARGET, target, num * rates["target_embed"], location, True),
        WallClock("random", 0.0, 0.0, selecting["random"], False),
    ]


def by_size(found: dict[int, list[WallClock]], runs: Rows) -> Any:
    """Plot seconds against examples: totals dashed, as they are extrapolated from a sample; selecting alone solid."""
    rows: Rows = []
    for num, clocks in found.items():
        for one in clocks:
            look = look_of(WHO[one.subset], WHO.values())
            for kind, seconds in (("all of it", one.total_s), ("selecting", one.selection_s)):
                tip = f"{one.subset}, {kind}: {format_duration(seconds)} for {num:,} examples"
                rows.append({"n": num, "s": max(seconds, 1e-3), "who": one.subset + kind, "colour": look.colour,
                             "kind": kind, "tip": tip})  # fmt: skip
    everything = [r["s"] for r in [*rows, *runs]]
    label = "format(datum.value, ',~g')"
    x = alt.X("n:Q", **log_axis(min(found) * 0.8, max(found) * 1.2, "examples (log)", 5, label))
    y = alt.Y(
        "s:Q", **log_axis(min(everything) * 0.7, max(everything) * 1.4, "seconds (log; lower is better)", 6, label)
    )
    base = alt.Chart(data(rows)).encode(
        x=x, y=y, detail=alt.Detail("who:N"), color=alt.Color("colour:N", scale=None),
        strokeDash=alt.StrokeDash("kind:N", scale=alt.Scale(domain=["all of it", "selecting"], range=[[5, 3], [1, 0]]),
                                  legend=None), description=alt.Description("tip:N"),
    )  # fmt: skip
    layers = [base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=40, opacity=1)]
    if runs:
        layers.append(alt.Chart(data(runs)).mark_point(size=90, opacity=1, strokeWidth=2).encode(
            x=x, y=y, color=alt.Color("colour:N", scale=None), description=alt.Description("tip:N")
        ))  # fmt: skip
    return dressed(alt.layer(*layers), WIDTH + 60, 260)


def points_of_runs(runs: list[str]) -> Rows:
    """Read the times of real runs from their manifests, drawn as rings."""
    rows: Rows = []
    for where in runs:
        run = load_run(where)
        num = run.stage("trajectories").manifest.row_counts["trajectories"]
        for one in wall_clocks(run):
            selector = str(run.subsets[one.subset].manifest.extra["selector"])
            if selector in LOOKS:
                colour = look_of(BY_TARGET if one.by_target else selector, WHO.values()).colour
                tip = f"{where}, {one.subset}: {format_duration(one.total_s)}"
                rows.append({"n": num, "s": max(one.total_s, 1e-3), "colour": colour, "who": one.subset, "tip": tip})
    return rows


def print_table(found: dict[int, list[WallClock]]) -> None:
    print("| examples | chosen by | reference training * | scoring * | selecting | in all |\n|---|---|---|---|---|---|")
    for num, clocks in found.items():
        for one in clocks:
            cells = map(format_duration, (one.training_s, one.scoring_s, one.selection_s, one.total_s))
            print(f"| {num:,} | {one.subset} | " + " | ".join(cells) + " |")
    print("* measured on a sample, and multiplied")


def write(found: dict[int, list[WallClock]], rates: dict[str, Any], runs: Rows, folder: Path) -> None:
    """Write figures and picture for the sizes so far, because the largest takes longest and may be interrupted."""
    from s2l_ray.reporting.svg import to_files

    bars, largest = wall_clock_bars(found[max(found)], {}), max(found)
    titles = [f"{largest:,} examples", f"{rates['device']}; models multiplied"]
    picture = framed([bars, by_size(found, runs)], "Wall-clock time of selection", list(WHO.values()), titles)
    for ending, content in to_files(picture).items():
        (folder / f"wall_clock.{ending}").write_bytes(content)
    clocks = {num: [vars(clock) for clock in of] for num, of in found.items()}
    (folder / "wall_clock.json").write_text(json.dumps({"rates": rates, "clocks": clocks, "runs": runs}, indent=2))


def in_fresh_process(selector: str, num: int, args: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--measure-here", selector, "--sizes", str(num), "--out", str(args.out)]
    for name in ("snapshots", "clusters", "dim", "budget"):
        command += [f"--{name}", str(getattr(args, name))]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="examples")
    parser.add_argument("--proxy", default="pythia-14m", help="shape of the proxy, see gpu.py")
    parser.add_argument("--target", default="pythia-70m", help="shape of the target")
    parser.add_argument("--sample", type=int, default=16, help="examples on which models are measured")
    parser.add_argument("--epochs", type=int, default=3, help="of training a reference model")
    parser.add_argument("--snapshots", type=int, default=12, help="at which S2L scores")
    parser.add_argument("--clusters", type=int, default=100, help="K")
    parser.add_argument("--dim", type=int, default=64, help="numbers of a stored embedding (reference.embedding_dim)")
    parser.add_argument("--budget", type=float, default=0.1, help="share")
    parser.add_argument("--rates", type=Path, help=f"JSON with {', '.join(RATES)} (seconds an example) and device")
    parser.add_argument("--runs", nargs="+", default=[], metavar="RUN", help="runs whose manifests are drawn too")
    parser.add_argument("--out", type=Path, default=Path("wall-clock"), help="folder")
    parser.add_argument("--measure-here", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure_here:
        print(measure_selection(args.measure_here, args.sizes[0], args))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    rates = measure_rates(args) if args.rates is None else json.loads(args.rates.read_text())
    print(", ".join(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
                    for name, value in rates.items()), flush=True)  # fmt: skip
    runs, found = points_of_runs(args.runs), {}
    for num in sorted(args.sizes):
        selecting = {name: in_fresh_process(name, num, args) for name in ("s2l", "facility_location", "random")}
        print(f"{num:,}: " + ", ".join(f"{name} {s:.2f} s" for name, s in selecting.items()), flush=True)
        found[num] = clocks_of(num, rates, selecting, args)
        write(found, rates, runs, args.out)
    print_table(found)


if __name__ == "__main__":
    main()
