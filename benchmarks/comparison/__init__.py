"""Shared code for comparing selectors: one process, no Ray, no network; it uses the package's own loops and rules.

`tokens` turns rows into examples, `training` trains and scores with a model, `reference` holds a proxy's view of a
corpus, `arms` selects subsets from it, `corpora` makes data with wrong answers, and `statistics` computes differences
with intervals.
"""
