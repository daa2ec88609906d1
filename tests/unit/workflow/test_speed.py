"""The speed that a dry run assumes: measured where small models train on this machine's CPUs, otherwise configured."""

from __future__ import annotations

import pytest
import torch

from s2l_ray.config import load_config
from s2l_ray.testing.tiny import tiny_run_config
from s2l_ray.workflow.estimate import estimate
from s2l_ray.workflow.speed import Speed, measured_flops_per_width, speed_of

EPYC = Speed(1e11, 0.17e9)
"""As measured on one core of an EPYC of 2017, when the quickstart ran there."""


@pytest.mark.parametrize(
    ("flops", "steps", "width", "took"),
    [(5.85e11, 578, 48, 79.1), (1.19e12, 450, 96, 88.1)],  # the quickstart's proxy with its snapshots, and its target
)
def test_the_quickstarts_trainings_take_what_they_took(flops, steps, width, took):
    """Without the measurement, the estimates were 61 and 59 seconds."""
    assert EPYC.training_s(flops, steps, width, 1) == pytest.approx(took, rel=0.1)


def test_wide_models_reach_the_configured_speed():
    assert EPYC.of(4096) == 1e11
    assert "0.1 TFLOP/s per worker (estimates.device_tflops)" in EPYC.words(4096)
    assert EPYC.words(96) == "16 GFLOP/s per worker, measured here for models of this size"


def test_the_measurement_is_plausible_and_leaves_no_trace():
    measured_flops_per_width.cache_clear()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    assert 1e7 < measured_flops_per_width() < 1e10
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_only_this_machine_is_measured(tmp_path):
    plain = load_config(tiny_run_config(tmp_path))
    for config in (plain, load_config(plain.stored())):  # sweeps load stored configurations
        assert speed_of(config).flops_per_width is not None
    for changes in (
        {"estimates": {"device_tflops": 0.2}},  # the user knows
        {"resources": {"device": "gpu"}},
        {"resources": {"ray_address": "auto"}},
    ):
        assert speed_of(load_config(tiny_run_config(tmp_path) | changes)).flops_per_width is None


def test_the_dry_run_says_which_speed_it_assumes(tmp_path):
    for changes, told in (
        ({"estimates": {"device_tflops": 0.5}}, "at 0.5 TFLOP/s per worker (estimates.device_tflops)"),
        ({}, "GFLOP/s per worker, measured here for models of this size"),
    ):
        config = load_config(tiny_run_config(tmp_path) | changes)
        [line] = [line for line in estimate(config).lines(config) if line.startswith("time ")]
        assert told in line
