"""Speed of a worker, for estimates of time: as configured, or, where small models train on this machine, measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

from s2l_ray.config.schema import EstimatesConfig, S2LConfig
from s2l_ray.execution.session import is_embedded

_WIDTH = 96
"""Width of the model that is measured: the quickstart's target."""
_START_S, _MEASURED_START_S = 20.0, 14.0
_STEP_S = 0.06
"""Time that a training takes besides its arithmetic (seconds), to start workers, evaluate and export, and for each
step. The first two on the quickstart with one core per training; what a step takes depends on the processor (30 to
120 ms), so it counts only where nothing is measured: a measured speed contains it."""


@dataclass(frozen=True)
class Speed:
    """What a worker sustains."""

    flops: float
    """FLOP/s with large matrices."""
    flops_per_width: float | None = None
    """FLOP/s for each unit of the hidden size. Small matrices are slower: up to a width of about 200, the speed of a
    core is proportional to it (measured at widths of 32 to 512). None: not measured."""

    def of(self, width: int) -> float:
        """FLOP/s with a model of this hidden size; 0: unknown."""
        if self.flops_per_width is None or not width:
            return self.flops
        return min(self.flops, self.flops_per_width * width)

    def training_s(self, flops: float, steps: int, width: int, workers: int) -> float:
        """Time of a training, or of a proxy's training and its passes over the corpus (seconds)."""
        seconds = flops / (self.of(width) * workers)
        return seconds + (_START_S + _STEP_S * steps if self.flops_per_width is None else _MEASURED_START_S)

    def words(self, width: int) -> str:
        if self.of(width) == self.flops:
            return f"{self.flops / 1e12:g} TFLOP/s per worker (estimates.device_tflops)"
        return f"{self.of(width) / 1e9:.2g} GFLOP/s per worker, measured here for models of this size"


def speed_of(config: S2LConfig) -> Speed:
    """The configured speed; if that is the default, and the run would use this machine's CPUs, theirs too."""
    import torch

    flops = config.estimates.device_tflops * 1e12
    here = is_embedded(config.resources) and config.resources.device != "gpu" and not torch.cuda.is_available()
    # A value that equals the default counts as not set: configurations that were stored and loaded have all values.
    is_set = config.estimates.device_tflops != EstimatesConfig.model_fields["device_tflops"].default
    return Speed(flops, measured_flops_per_width() if here and not is_set else None)


@cache
def measured_flops_per_width() -> float:
    """Train a small model for three steps on one core, in processor time, which other programs' load hardly changes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from s2l_ray.lm.flops import ModelShape

    threads, batch, length = torch.get_num_threads(), 64, 20
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            shape = {"hidden_size": _WIDTH, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
            config = AutoConfig.for_model("llama", vocab_size=260, max_position_embeddings=64, **shape)
            model = AutoModelForCausalLM.from_config(config)
            tokens = torch.randint(0, 260, (batch, length))
            seconds = []
            for _ in range(3):
                start = time.process_time()
                model(input_ids=tokens, labels=tokens).loss.backward()
                seconds.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    num = batch * length
    return ModelShape.of(model).training_flops(num, num, num * length) / min(seconds) / _WIDTH
