"""Subset: reads trajectories, clusters and a budget → writes the chosen example ids and rows.

`ranking.py` orders examples by a keyed hash, `quota.py` spends the budget, `selectors.py` joins the two. No Ray.
"""
