"""Subset: trajectories, clusters and a budget → the chosen rows."""
