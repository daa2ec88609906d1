"""Sweeps: budgets × selectors × seeds × settings → one table, one curve, the smallest budget that is good enough.

`trials` lists what to try, `tune` runs it with Ray Tune, `run` is the sequence of steps, `results` the table.
"""
