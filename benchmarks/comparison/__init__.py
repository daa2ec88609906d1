"""Shared code of the comparisons of selectors: one process, no Ray, no network; the package's own loops and rules.

`tokens` makes examples of rows, `training` trains and scores a model, `reference` is a proxy's view of a corpus, `arms`
chooses subsets by it, `corpora` makes data with wrong answers, and `statistics` says how sure a difference is.
"""
