"""Trajectories: T snapshots → the N × T matrix of losses."""
