"""Selectors, one file each. Where a paper's definition is not public, ours says so."""
