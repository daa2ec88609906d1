"""Subset: trajectories, clusters and a budget → the selected rows."""
