"""Proxy: reads token parts → trains the small model, scores every example at T snapshots → writes losses and the model.

`plan` what is trained when, `train` one optimiser step, `score` one snapshot, `workers` the loop on Ray Train.
"""
