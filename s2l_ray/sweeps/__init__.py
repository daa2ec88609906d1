"""Sweep: budgets × selectors × seeds × settings → one table, one curve, the smallest budget that is good enough.

`trials` what is tried, `tune` Ray Tune's part, `run` the order of things, `results` the table.
"""
